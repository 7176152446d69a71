//! The store goes away while traffic flows: no request notices, lowering works, raising waits until it is back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use penstock::admin::wire::{Change, Entry, Problem, Weight};

use crate::support::{Act, Load, eventually};
use crate::world::{Proxy, Stands, World, changed, percent, run, serves, started, watch};

/// What a test cannot do here is said, and not counted as a failure.
fn skipped(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
}

#[track_caller]
fn raising_is_refused(proxy: &Proxy, weight: &str) {
    let response = proxy.api().weight(weight, "*").unwrap();
    assert_eq!(response.status, 507, "{}", response.text());
    let problem: Problem = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem.kind, "/problems/store");
}

#[track_caller]
fn says_so(proxy: &Proxy) {
    let store = proxy.api().services().store.expect("a store");
    assert!(!store.keeps && store.trouble.is_some(), "{store:?}");
    assert_eq!(proxy.api().metric("penstock_store_up"), Some(0));
    let status = status(proxy);
    assert!(status.contains("the store"), "{status}");
}

#[track_caller]
fn recovers(proxy: &Proxy) {
    eventually("the store keeps again", || {
        proxy.api().services().store.is_some_and(|store| store.keeps && store.unsaved == 0 && store.trouble.is_none())
    });
    assert_eq!(proxy.api().metric("penstock_store_up"), Some(1));
    assert_eq!(proxy.api().metric("penstock_store_unsaved_entries"), Some(0));
    assert!(!status(proxy).contains("the store"));
}

fn status(proxy: &Proxy) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let output = command.args(["--admin", &proxy.admin.to_string(), "status", "shop"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Watches for the next announcement of a kind.
fn next(proxy: &Proxy, wanted: fn(&Change) -> bool) -> mpsc::Receiver<Entry> {
    let (sender, receiver) = mpsc::channel();
    let (admin, after) = (proxy.admin, proxy.api().metric("penstock_state_revision"));
    thread::spawn(move || {
        watch(admin, after, |entry| {
            let found = wanted(&entry.event.change);
            if found {
                let _nobody_waits = sender.send(entry);
            }
            !found
        });
    });
    receiver
}

/// A running proxy whose store breaks and is mended: everything that must hold meanwhile and afterwards.
fn breaks_and_mends(world: &World, proxy: Proxy, fault: impl FnOnce(), mend: impl FnOnce()) {
    serves(&proxy);
    changed(proxy.api().weight("20%", "*"));
    let load = Load::start(proxy.address, 4, Duration::from_millis(2));
    eventually("traffic", || load.answered() > 100);
    fault();
    raising_is_refused(&proxy, "30%");
    says_so(&proxy);
    assert_eq!(proxy.api().split().weight, percent(20), "nothing has changed");
    let aborted = next(&proxy, |change| matches!(change, Change::Aborted { .. }));
    let done = changed(proxy.api().abort());
    assert!(!done.durable && done.split.weight == Weight::ZERO, "{done:?}");
    assert!(!aborted.recv_timeout(Duration::from_secs(5)).expect("announced").durable);
    says_so(&proxy);
    assert!(proxy.api().metric("penstock_store_unsaved_entries") >= Some(1));
    let canary = world.canary.requests();
    let answered = load.answered();
    eventually("traffic", || load.answered() > answered + 200);
    assert!(world.canary.requests() <= canary + 4, "the canary's traffic is gone");
    mend();
    recovers(&proxy);
    assert!(changed(proxy.api().unseal("v2")).durable);
    assert!(changed(proxy.api().weight("5%", "*")).durable);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    proxy.kill();
    let stands = Stands::of(&world.start().api().split());
    assert_eq!(stands, Stands { weight: percent(5), sealed: false });
}

/// A small file system of its own, until dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf) -> Result<Tmpfs, String> {
        fs::create_dir_all(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=512k", "tmpfs", path.to_str().unwrap()]).map(|()| Tmpfs(path))
    }

    fn remount(&self, how: &str) -> Result<(), String> {
        run("mount", &["-o", &format!("remount,{how}"), self.0.to_str().unwrap()])
    }

    fn fill(&self) {
        let mut size = 256 * 1024;
        let mut part = 0;
        while size > 0 {
            part += 1;
            if fs::write(self.0.join(format!("ballast{part}")), vec![1; size]).is_err() {
                size /= 2;
            }
            assert!(part < 1_000, "it does not get full");
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ballast")) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: the process may be on its way out.
        let _says_so = run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_disk() {
    let world = World::new();
    let disk = match Tmpfs::mount(world.store()) {
        Ok(disk) => disk,
        Err(why) => return skipped("a_full_disk", &why),
    };
    breaks_and_mends(&world, world.start(), || disk.fill(), || disk.empty());
}

#[test]
fn an_automatic_rollback_on_a_full_disk() {
    let world = World::new();
    let disk = match Tmpfs::mount(world.store()) {
        Ok(disk) => disk,
        Err(why) => return skipped("an_automatic_rollback_on_a_full_disk", &why),
    };
    let proxy = world.start();
    let load = Load::start(proxy.address, 8, Duration::from_millis(2));
    eventually("traffic", || load.answered() > 300);
    disk.fill();
    let rolled_back = next(&proxy, |change| matches!(change, Change::RolledBack { .. }));
    world.canary.always(Act::Status(500));
    let entry = rolled_back.recv_timeout(Duration::from_secs(15)).expect("a rollback");
    assert!(!entry.durable);
    assert_eq!(Stands::of(&proxy.api().split()), Stands { weight: Weight::ZERO, sealed: true });
    says_so(&proxy);
    disk.empty();
    recovers(&proxy);
    let report = load.stop();
    assert_eq!((report.broken, report.failed()), (0, report.status(500)), "only the canary's own: {report:?}");
    proxy.kill();
    let stands = Stands::of(&world.start().api().split());
    assert_eq!(stands, Stands { weight: Weight::ZERO, sealed: true }, "kept once there was room");
}

#[test]
fn a_disk_that_is_full_at_the_start() {
    let world = World::new();
    let disk = match Tmpfs::mount(world.store()) {
        Ok(disk) => disk,
        Err(why) => return skipped("a_disk_that_is_full_at_the_start", &why),
    };
    disk.fill();
    begins_at_nothing_and_recovers(&world, || disk.empty());
}

/// SQLite's write fails with EFBIG, and would kill the process by SIGXFSZ. Nobody needs to be root for this one.
#[test]
fn files_at_their_size_limit() {
    let world = World::new();
    let proxy = world.start();
    let limit =
        |limit: &str| run("prlimit", &["--pid", &proxy.pid().to_string(), &format!("--fsize={limit}:unlimited")]);
    if let Err(why) = limit("unlimited") {
        return skipped("files_at_their_size_limit", &why);
    }
    let pid = proxy.pid().to_string();
    let set = |limit: &str| run("prlimit", &["--pid", &pid, &format!("--fsize={limit}:unlimited")]).unwrap();
    breaks_and_mends(&world, proxy, || set("4096"), || set("unlimited"));
}

/// The canary begins with nothing; when the store can be used, everything since is kept.
fn begins_at_nothing_and_recovers(world: &World, mend: impl FnOnce()) {
    let proxy = world.start();
    serves(&proxy);
    assert_eq!(proxy.api().split().weight, Weight::ZERO, "it may have been sealed");
    assert!(proxy.log().contains("every canary begins at weight 0"), "{}", proxy.log());
    says_so(&proxy);
    raising_is_refused(&proxy, "10%");
    let load = Load::start(proxy.address, 4, Duration::from_millis(2));
    eventually("traffic", || load.answered() > 200);
    assert_eq!(world.canary.requests(), 0);
    assert!(!changed(proxy.api().abort()).durable);
    mend();
    recovers(&proxy);
    assert_eq!(load.stop().failed(), 0);
    proxy.kill();
    let again = world.start();
    assert_eq!(Stands::of(&again.api().split()), Stands { weight: Weight::ZERO, sealed: true }, "{}", again.log());
}

#[test]
fn a_directory_that_is_missing_is_made() {
    let world = World::new();
    world.write(|text| text.replace("/data\"", "/not/there/yet\""));
    let proxy = world.start();
    assert!(changed(proxy.api().weight("20%", "*")).durable);
    assert!(world.path("not/there/yet/penstock.sqlite").exists());
}

/// Permissions do not bind root; a file in the directory's place does.
#[test]
fn a_path_that_cannot_be_a_directory() {
    let world = World::new();
    fs::write(world.store(), "in the way").unwrap();
    begins_at_nothing_and_recovers(&world, || fs::remove_file(world.store()).unwrap());
}

#[test]
fn a_store_that_is_read_only_at_the_start() {
    let world = World::new();
    let disk = match Tmpfs::mount(world.store()) {
        Ok(disk) => disk,
        Err(why) => return skipped("a_store_that_is_read_only_at_the_start", &why),
    };
    let proxy = world.start();
    changed(proxy.api().weight("20%", "*"));
    changed(proxy.api().abort());
    proxy.kill();
    if let Err(why) = disk.remount("ro") {
        return skipped("a_store_that_is_read_only_at_the_start", &why);
    }
    let proxy = world.start();
    serves(&proxy);
    assert_eq!(proxy.api().split().weight, Weight::ZERO);
    says_so(&proxy);
    raising_is_refused(&proxy, "10%");
    disk.remount("rw").unwrap();
    // It holds a seal that this process does not know of: only a start puts the two together.
    raising_is_refused(&proxy, "10%");
    assert!(proxy.api().services().store.unwrap().trouble.unwrap().contains("restart"));
    proxy.kill();
    let stands = Stands::of(&world.start().api().split());
    assert_eq!(stands, Stands { weight: Weight::ZERO, sealed: true });
}

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
static void slowly(void) {
    const char *slow = getenv("SLOW");
    if (slow && access(slow, F_OK) == 0) sleep(3);
}
int fsync(int file) { slowly(); return syscall(SYS_fsync, file); }
int fdatasync(int file) { slowly(); return syscall(SYS_fdatasync, file); }
"#;

fn shim(directory: &Path) -> Result<PathBuf, String> {
    let (source, library) = (directory.join("slow.c"), directory.join("slow.so"));
    fs::write(&source, SHIM).unwrap();
    run("cc", &["-shared", "-fPIC", "-o", library.to_str().unwrap(), source.to_str().unwrap()]).map(|()| library)
}

#[test]
fn a_slow_disk() {
    let world = World::new();
    let library = match shim(world.directory.path()) {
        Ok(library) => library,
        Err(why) => return skipped("a_slow_disk", &why),
    };
    let slow = world.path("slow");
    let mut command = world.serve();
    command.env("LD_PRELOAD", &library).env("SLOW", &slow);
    let proxy = started(command);
    changed(proxy.api().weight("20%", "*"));
    let load = Load::start(proxy.address, 4, Duration::from_millis(2));
    eventually("traffic", || load.answered() > 100);
    fs::write(&slow, "").unwrap();
    let begun = Instant::now();
    let done = changed(proxy.api().weight("30%", "*"));
    assert!(done.durable && begun.elapsed() > Duration::from_millis(2_900), "raising waits for the disk");
    let aborting = Instant::now();
    let done = changed(proxy.api().abort());
    assert!(!done.durable && aborting.elapsed() < Duration::from_millis(2_500), "lowering does not: {done:?}");
    let store = proxy.api().services().store.unwrap();
    assert!(store.unsaved == 1 && store.trouble.is_some(), "{store:?}");
    let answered = load.answered();
    eventually("traffic", || load.answered() > answered + 200);
    fs::remove_file(&slow).unwrap();
    recovers(&proxy);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    proxy.kill();
    assert_eq!(Stands::of(&world.start().api().split()), Stands { weight: Weight::ZERO, sealed: true });
}
