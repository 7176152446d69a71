//! `penstock demo`: the main job with nothing else installed. A proxy, two versions behind it and clients in front of
//! it, in one process and over real sockets; the canary turns bad, and the proxy takes its traffic away.

#![expect(clippy::disallowed_methods, reason = "the demo tells a story to a person, in that person's time")]

mod load;
mod origin;
mod story;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;

use self::load::Got;
use self::origin::Origin;
use self::story::Story;
use super::serve::{refuse, start};
use super::{Exit, Failure, Output};
use crate::app::{App, Options};
use crate::config;

/// When the canary turns bad.
const TURN: Duration = Duration::from_secs(4);
/// What a bad canary does to its requests.
const FAILING_PER_MILLE: u64 = 300;
const SLOWER_BY: Duration = Duration::from_millis(400);
/// How long a healthy canary is watched.
const WATCHED: Duration = Duration::from_secs(12);
/// When a bad canary must have been rolled back.
const PATIENCE: Duration = Duration::from_secs(24);
/// How long life goes on after a rollback.
const AFTERWARDS: Duration = Duration::from_millis(1_500);
/// Between two lines of the story.
const LINE: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Watch a canary turn bad and be rolled back, with nothing else installed
#[derive(Debug, Args)]
pub struct Demo {
    /// What becomes of the canary
    #[arg(long, value_enum, default_value_t)]
    scenario: Scenario,

    /// Requests a second
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=5_000))]
    rate: u32,

    /// The canary's weight
    #[arg(long, default_value = "10%", value_name = "WEIGHT")]
    weight: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Scenario {
    /// It starts failing a share of its requests, and is rolled back
    #[default]
    Bad,
    /// It stays healthy, and is left alone
    Good,
    /// It becomes slow, and is rolled back
    Slow,
}

/// Everything that runs.
struct Stage {
    runtime: Runtime,
    canary: Origin,
    app: App,
    got: Arc<Got>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    RolledBack,
    LeftAlone,
    Interrupted,
}

impl Demo {
    pub fn run(self, output: &mut Output<'_>) -> Result<(), Failure> {
        let stage = self.set_up()?;
        let mut story = Story { stage: &stage, output };
        story.introduce(&self)?;
        let end = self.play(&mut story)?;
        let fulfilled = self.fulfilled(end);
        if fulfilled.is_ok() {
            story.sum_up(end)?;
        }
        stage.app.stop(|| true);
        stage.runtime.shutdown_background();
        fulfilled
    }

    fn fulfilled(&self, end: End) -> Result<(), Failure> {
        let failed = |message: &str| Err(Failure::new(Exit::Error, message));
        match (end, self.scenario) {
            (End::RolledBack, Scenario::Bad | Scenario::Slow) | (End::LeftAlone, Scenario::Good) => Ok(()),
            (End::Interrupted, _) => failed("interrupted before the end of the demo"),
            (End::RolledBack, Scenario::Good) => failed("a healthy canary was rolled back"),
            (End::LeftAlone, _) => failed("the bad canary was not rolled back in time"),
        }
    }

    fn set_up(&self) -> Result<Stage, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let origins = async { Ok::<_, io::Error>((Origin::start("v1").await?, Origin::start("v2").await?)) };
        let (stable, canary) = runtime.block_on(origins)?;
        let settings =
            config::parse("demo.toml", &self.file(&stable, &canary)).map_err(|problems| refuse(&problems))?;
        let app = start(settings, Options::default())?;
        let proxy = *app.addresses().first().ok_or_else(|| Failure::new(Exit::Error, "nothing listens"))?;
        let got = runtime.block_on(async { load::start(proxy, self.rate, PATIENCE + AFTERWARDS) });
        Ok(Stage { runtime, canary, app, got })
    }

    /// The same file that anybody would write, on free ports.
    fn file(&self, stable: &Origin, canary: &Origin) -> String {
        format!(
            r#"[[listeners]]
address = "127.0.0.1:0"

[admin]
address = "127.0.0.1:0"

[services.shop]
stable = "v1"
canary = "v2"
weight = "{weight}"
routes = [{{ host = "*", path_prefix = "/" }}]

[services.shop.versions.v1]
endpoints = ["{stable}"]

[services.shop.versions.v2]
endpoints = ["{canary}"]

[services.shop.rollback]
error_rate = {{ above = "5%", window = "10s" }}
latency = {{ quantile = "99%", above = "250ms", window = "10s" }}
"#,
            weight = self.weight,
            stable = stable.address,
            canary = canary.address,
        )
    }

    /// Lets it happen, telling what is seen, until there is an end to it.
    fn play(&self, story: &mut Story<'_, '_>) -> Result<End, Failure> {
        let (stage, begun) = (story.stage, Instant::now());
        let interrupt = stage.runtime.spawn(tokio::signal::ctrl_c());
        let (mut told, mut turned, mut rolled_back) = (begun, self.scenario == Scenario::Good, None);
        while !interrupt.is_finished() {
            std::thread::sleep(LOOK);
            if !turned && begun.elapsed() >= TURN {
                turned = true;
                self.turn(&stage.canary);
                story.turned()?;
            }
            if rolled_back.is_none() && story.rollback().is_some() {
                rolled_back = Some(Instant::now());
                story.line(begun.elapsed())?;
                story.rolled_back()?;
                told = Instant::now();
            }
            if told.elapsed() >= LINE {
                told = Instant::now();
                story.line(begun.elapsed())?;
            }
            let patience = if self.scenario == Scenario::Good { WATCHED } else { PATIENCE };
            match rolled_back {
                Some(at) if at.elapsed() >= AFTERWARDS => return Ok(End::RolledBack),
                None if begun.elapsed() >= patience => return Ok(End::LeftAlone),
                _ => {}
            }
        }
        Ok(End::Interrupted)
    }

    fn turn(&self, canary: &Origin) {
        match self.scenario {
            Scenario::Good => {}
            Scenario::Bad => canary.fail(FAILING_PER_MILLE),
            Scenario::Slow => canary.slow_down(SLOWER_BY),
        }
    }
}
