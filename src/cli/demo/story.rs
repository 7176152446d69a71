//! What the demo tells while it runs, and how it sums up.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Style};

use super::{Demo, End, FAILING_PER_MILLE, SLOWER_BY, Scenario, Stage, TURN, load};
use crate::admin::wire::{self, Change, Conviction, Entry, Incident, Version};
use crate::cli::{Failure, Output};

const STRONG: Style = Style::new().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const FAINT: Style = Style::new().dimmed();

pub struct Story<'a, 'o> {
    pub stage: &'a Stage,
    pub output: &'a mut Output<'o>,
}

impl Story<'_, '_> {
    pub fn introduce(&mut self, demo: &Demo) -> Result<(), Failure> {
        let (app, seconds) = (&self.stage.app, TURN.as_secs());
        let fate = match demo.scenario {
            Scenario::Bad => format!("from second {seconds} on it fails {}% of its requests", FAILING_PER_MILLE / 10),
            Scenario::Good => "and stays good".to_owned(),
            Scenario::Slow => format!("from second {seconds} on it takes {} ms longer", SLOWER_BY.as_millis()),
        };
        let proxy: Vec<String> = app.addresses().iter().map(ToString::to_string).collect();
        for line in [
            format!(
                "{STRONG}Penstock demo{STRONG:#}: a service, its canary, and its clients, in one process over real sockets"
            ),
            format!("  proxy   {}   admin {}", proxy.join(" "), app.admin()),
            "  v1      stable".to_owned(),
            format!("  v2      canary at {}: good at first, {fate}", demo.weight),
            format!("  load    {} requests a second from {} clients", demo.rate, load::CLIENTS),
            String::new(),
            format!(
                "{FAINT}{:>6} {:>7} {:>7} | {:>8} {:>7} {:>8} {:>8} | {:>8} {:>7} {:>8} {:>8} | {:>8}{FAINT:#}",
                "time",
                "weight",
                "share",
                "v1 reqs",
                "errors",
                "p50",
                "p99",
                "v2 reqs",
                "errors",
                "p50",
                "p99",
                "evidence"
            ),
        ] {
            self.output.line(&line)?;
        }
        Ok(())
    }

    /// How things are now.
    pub fn line(&mut self, at: Duration) -> Result<(), Failure> {
        let Some(service) = self.service() else { return Ok(()) };
        let versions: Vec<String> = service.versions.iter().map(version).collect();
        let share = service.share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0));
        let evidence = service.evidence.towards_1000;
        let style = if evidence >= 100.0 { BAD } else { Style::new() };
        self.output.line(&format!(
            "{:>5.1}s {:>7} {share:>7} | {} | {style}{evidence:>8.0}{style:#} of 1000",
            at.as_secs_f64(),
            service.weight.to_string(),
            versions.join(" | "),
        ))
    }

    pub fn turned(&mut self) -> Result<(), Failure> {
        self.output.line(&format!("{BAD}       v2 turns bad{BAD:#}"))
    }

    pub fn rolled_back(&mut self) -> Result<(), Failure> {
        self.output.line(&format!("{GOOD}       v2 is rolled back and sealed{GOOD:#}"))
    }

    /// The journal's entry of the rollback, once there is one.
    pub fn rollback(&self) -> Option<(Entry, Conviction)> {
        let entry = self
            .stage
            .app
            .control()
            .journal()
            .newest(|entry| matches!(entry.event.change, Change::RolledBack { .. }))?;
        match &entry.event.change {
            Change::RolledBack { conviction, .. } => Some((entry.clone(), conviction.clone())),
            _ => None,
        }
    }

    pub fn sum_up(&mut self, end: End) -> Result<(), Failure> {
        let (answers, failures) = self.got();
        self.output.line("")?;
        match self.rollback().filter(|_| end == End::RolledBack) {
            Some((entry, conviction)) => self.sum_up_rollback(&entry, &conviction)?,
            None => self.output.line(&format!("{GOOD}v2 was left alone{GOOD:#}: nothing speaks against it."))?,
        }
        self.output.line(&format!("  clients   {answers} answers, {failures} of them failures"))
    }

    fn sum_up_rollback(&mut self, entry: &Entry, conviction: &Conviction) -> Result<(), Failure> {
        let Incident { canary_requests, canary_failures, exposed_failures, decision_ms, .. } =
            entry.incident.clone().unwrap_or_default();
        let evidence = (conviction.log_e - conviction.threshold).exp() * 1_000.0;
        for line in [
            format!("{GOOD}v2 was rolled back{GOOD:#}: its weight is 0%, and it is sealed until a person unseals it."),
            format!("  why       {}", conviction.because),
            format!("  trigger   {}: evidence {evidence:.0}, where 1000 rolls back", conviction.trigger),
            format!(
                "  exposed   {canary_requests} requests went to v2; {canary_failures} failed, {exposed_failures} of them for a client to see"
            ),
            format!("  time      {}", self.timing(entry.at.into())),
            format!("  verdict   at most {} ms after the answer that decided", decision_ms.unwrap_or_default()),
        ] {
            self.output.line(&line)?;
        }
        Ok(())
    }

    /// As v2 itself saw it, against the moment at which weight zero was published.
    fn timing(&self, zero: SystemTime) -> String {
        let seen = self.stage.canary.seen();
        let (Some(bad), Some(last)) = (seen.first_bad, seen.last_request) else {
            return "unknown".to_owned();
        };
        let ms = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_millis();
        format!(
            "{} ms from v2's first bad answer to weight zero; the last request reached v2 {} ms after that",
            ms(bad, zero),
            ms(zero, last)
        )
    }

    fn got(&self) -> (u64, u64) {
        let got = &self.stage.got;
        (got.answers.load(Ordering::Relaxed), got.failures.load(Ordering::Relaxed))
    }

    fn service(&self) -> Option<wire::Service> {
        let control = self.stage.app.control();
        let view = control.view();
        view.services.values().next().map(|service| wire::Service::of(service, &wire::Beside::of(control)))
    }
}

fn version(version: &Version) -> String {
    let errors = version.error_rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}%", rate * 100.0));
    let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    let latency = version.latency_ms;
    format!(
        "{:>8} {errors:>7} {:>8} {:>8}",
        version.counts.total.total(),
        ms(latency.map(|latency| latency.p50)),
        ms(latency.map(|latency| latency.p99)),
    )
}
