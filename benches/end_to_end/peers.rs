//! The proxies, each set up for the same task, and the origin behind them.

use std::fs;
use std::path::Path;

use crate::machine::{Folder, Process, Tools, free_port, on_core, version};
use crate::{LARGE, MEDIUM, OTHER_CORE, Outcome, PROXY_CORE, SMALL};

/// What nginx needs in any role: one process, everything in the folder, nothing logged.
const NGINX: &str = "daemon off; master_process off; worker_processes 1; error_log stderr crit;
events { worker_connections 4096; }
";
/// The same of its `http`.
const NGINX_HTTP: &str = "access_log off; keepalive_requests 1000000000; default_type application/octet-stream;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    client_body_buffer_size 16k; sendfile on; tcp_nopush on; tcp_nodelay on;";

/// Both versions: one nginx that listens twice.
pub struct Origin {
    pub stable: u16,
    pub canary: u16,
    _process: Process,
}

impl Origin {
    pub fn start(tools: &Tools, nginx: &Path, folder: &Folder) -> Outcome<Origin> {
        let (stable, canary) = (free_port()?, free_port()?);
        let site = folder.path.join("site");
        fs::create_dir_all(&site)?;
        for (name, size) in [("10k", MEDIUM), ("1m", LARGE)] {
            fs::write(site.join(name), "x".repeat(size))?;
        }
        let (small, root) = ("x".repeat(SMALL), folder.path.display());
        let file = folder.write(
            "origin.conf",
            &format!(
                "{NGINX}pid origin.pid;
http {{ {NGINX_HTTP} open_file_cache max=8;
    server {{ listen 127.0.0.1:{stable}; listen 127.0.0.1:{canary}; root {root}/site;
        location = /100 {{ return 200 {small}; }}
        location = /post {{ return 200 {small}; }} }} }}
"
            ),
        )?;
        let mut command = on_core(tools, OTHER_CORE, nginx);
        command.arg("-p").arg(&folder.path).arg("-c").arg(file);
        Ok(Origin { stable, canary, _process: Process::start(command, folder, "origin.log", stable)? })
    }
}

/// A proxy under measurement.
pub struct Peer {
    pub name: String,
    pub version: String,
    pub port: u16,
    pub process: Process,
}

impl Peer {
    pub fn penstock(tools: &Tools, name: String, binary: &Path, folder: &Folder, origin: &Origin) -> Outcome<Peer> {
        let (port, admin) = (free_port()?, free_port()?);
        let (stable, canary) = (origin.stable, origin.canary);
        let label = name.replace('/', "-");
        let file = folder.write(
            &format!("{label}.toml"),
            &format!(
                r#"workers = 1
[[listeners]]
address = "127.0.0.1:{port}"
[admin]
address = "127.0.0.1:{admin}"
[services.shop]
routes = [{{ host = "*", path_prefix = "/" }}]
stable = "v1"
canary = "v2"
weight = "10%"
[services.shop.versions.v1]
endpoints = ["127.0.0.1:{stable}"]
[services.shop.versions.v2]
endpoints = ["127.0.0.1:{canary}"]
"#
            ),
        )?;
        let mut command = on_core(tools, PROXY_CORE, binary);
        command.arg("serve").arg(file);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PENSTOCK_")) {
            command.env_remove(variable);
        }
        let process = Process::start(command, folder, &format!("{label}.log"), port)?;
        Ok(Peer { name, version: version(binary, "--version"), port, process })
    }

    pub fn haproxy(tools: &Tools, haproxy: &Path, folder: &Folder, origin: &Origin) -> Outcome<Peer> {
        let port = free_port()?;
        let (stable, canary) = (origin.stable, origin.canary);
        let file = folder.write(
            "haproxy.cfg",
            &format!(
                "global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option http-keep-alive
    http-reuse always
frontend shop
    bind 127.0.0.1:{port}
    use_backend canary if {{ rand(100) lt 10 }}
    default_backend stable
backend stable
    server v1 127.0.0.1:{stable}
backend canary
    server v2 127.0.0.1:{canary}
"
            ),
        )?;
        let mut command = on_core(tools, PROXY_CORE, haproxy);
        command.arg("-db").arg("-f").arg(file);
        let process = Process::start(command, folder, "haproxy.log", port)?;
        Ok(Peer { name: "haproxy".into(), version: version(haproxy, "-v"), port, process })
    }

    pub fn nginx(tools: &Tools, nginx: &Path, folder: &Folder, origin: &Origin) -> Outcome<Peer> {
        let port = free_port()?;
        let (stable, canary) = (origin.stable, origin.canary);
        let file = folder.write(
            "nginx.conf",
            &format!(
                "{NGINX}pid nginx.pid;
http {{ {NGINX_HTTP}
    split_clients $request_id $pool {{ 10% canary; * stable; }}
    upstream stable {{ server 127.0.0.1:{stable}; keepalive 256; keepalive_requests 1000000000; }}
    upstream canary {{ server 127.0.0.1:{canary}; keepalive 256; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{port};
        location / {{ proxy_pass http://$pool; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}
"
            ),
        )?;
        let mut command = on_core(tools, PROXY_CORE, nginx);
        command.arg("-p").arg(&folder.path).arg("-c").arg(file);
        let process = Process::start(command, folder, "nginx.log", port)?;
        Ok(Peer { name: "nginx".into(), version: version(nginx, "-v"), port, process })
    }
}
