//! Processes on this machine: finding programs, starting and ending them, and what the kernel says they took.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::Outcome;

/// Programs that are installed here.
pub struct Tools {
    pub taskset: Option<PathBuf>,
    pub nginx: Option<PathBuf>,
    pub haproxy: Option<PathBuf>,
    pub wrk: Option<PathBuf>,
}

impl Tools {
    pub fn find() -> Tools {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = || std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        let program = |name: &str| folders().map(|folder| folder.join(name)).find(|file| file.is_file());
        Tools {
            taskset: program("taskset").filter(|_| std::thread::available_parallelism().is_ok_and(|n| n.get() > 1)),
            nginx: program("nginx"),
            haproxy: program("haproxy"),
            wrk: program("wrk"),
        }
    }
}

/// A command on one core, where that can be had.
pub fn on_core(tools: &Tools, core: usize, program: &Path) -> Command {
    match &tools.taskset {
        None => Command::new(program),
        Some(taskset) => {
            let mut command = Command::new(taskset);
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
    }
}

/// The first line that a program says about itself.
pub fn version(program: &Path, flag: &str) -> String {
    let said = Command::new(program).arg(flag).output().map(|said| [said.stdout, said.stderr].concat());
    let text = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    text.lines().next().unwrap_or("of unknown version").to_owned()
}

pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A folder that goes away with everything in it.
pub struct Folder {
    pub path: PathBuf,
}

impl Folder {
    pub fn new() -> Outcome<Folder> {
        let path = std::env::temp_dir().join(format!("penstock-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Folder { path })
    }

    pub fn write(&self, name: &str, content: &str) -> Outcome<PathBuf> {
        let file = self.path.join(name);
        fs::write(&file, content)?;
        Ok(file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.path);
    }
}

/// A child, ended when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Started once `port` accepts connections.
    pub fn start(mut command: Command, folder: &Folder, log: &str, port: u16) -> Outcome<Process> {
        let output = fs::File::create(folder.path.join(log))?;
        command.current_dir(&folder.path).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = Process { child: command.spawn()? };
        for _ in 0..500 {
            if TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
                return Ok(process);
            }
            if process.child.try_wait()?.is_some() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        let said = fs::read_to_string(folder.path.join(log)).unwrap_or_default();
        Err(format!("{log}: {command:?} does not serve: {said}").into())
    }

    /// The time that all its threads ran. None of the proxies ends a thread while it is measured.
    pub fn cpu(&self) -> Outcome<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let line = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanos += line.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The most memory it had resident so far.
    pub fn peak_kib(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What wrk counted.
pub struct Load {
    pub requests: f64,
    /// Answers that were no success, and connections that broke.
    pub bad: f64,
}

impl Load {
    pub fn run(command: &mut Command) -> Outcome<Load> {
        let said = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let after = |mark: &str| {
            let number = text.split(mark).nth(1)?.trim_start();
            number.split(|c: char| !c.is_ascii_digit()).next()?.parse::<f64>().ok()
        };
        let before = |mark: &str| text.split(mark).next()?.split_whitespace().last()?.parse::<f64>().ok();
        let Some(requests) = text.contains(" requests in ").then(|| before(" requests in ")).flatten() else {
            let program = command.get_program().to_string_lossy().into_owned();
            let arguments: Vec<&OsStr> = command.get_args().collect();
            return Err(format!("{program} {arguments:?} measured nothing: {text}").into());
        };
        let marks = ["Non-2xx or 3xx responses:", "connect ", "read ", "write ", "timeout "];
        Ok(Load { requests, bad: marks.iter().filter_map(|mark| after(mark)).sum() })
    }
}
