//! llama.cpp's server, whose binary the user has: a slot for each request at a time, and as many clients.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use crate::protocol::{Answer, Order, Request, cells};
use crate::resident::{PEAK, peak_mib};
use crate::served::{Served, by_clients};

/// What it says that it is.
#[must_use]
pub fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    // It speaks on standard error.
    let text = output.map(|output| [output.stderr, output.stdout].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let version = text.lines().find(|line| line.starts_with("version")).unwrap_or("as it was given");
    format!("llama-server, {version}")
}

/// So long may a server take to load a model.
const START: Duration = Duration::from_secs(120);

/// A running server. It ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A part of what it answers to a request.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    tokens: Vec<i32>,
    #[serde(default)]
    stop: bool,
}

/// Runs an order on a server of its own.
///
/// # Errors
///
/// A program that does not start, or does not answer as expected.
pub fn run(program: &Path, model: &Path, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let server = Server::start(program, model, order)?;
    // Threads are awake and memory is there before the clock runs.
    server.complete(&Request { prompt: vec![3; 16], generate: 2, after_ms: 0 })?;

    let mut answer = by_clients(order, |request| server.complete(request).map_err(|error| error.to_string()))?;
    answer.metrics.extend(peak_mib(server.child.id()).map(|peak| (PEAK.to_owned(), peak)));
    Ok(answer)
}

impl Server {
    fn start(program: &Path, model: &Path, order: &Order) -> Result<Self, Box<dyn Error>> {
        // A port that is free now; the server takes it a moment later.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let numbers = [
            ("--port", u32::from(address.port())),
            ("-np", order.concurrent),
            ("-c", order.concurrent * cells(order)),
            ("-t", order.threads),
            ("-tb", order.threads),
            ("-b", 2048),
            ("-ub", 512),
        ];
        let mut command = Command::new(program);
        command.arg("-m").arg(model).args(["--host", "127.0.0.1", "--no-webui", "--no-kv-unified"]);
        for (option, number) in numbers {
            command.args([option, &number.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { child, address };
        let started = Instant::now();
        while exchange(address, "GET", "/health", "").is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{}: {status}", program.display()).into());
            }
            if started.elapsed() > START {
                return Err(format!("{} is not ready after {} s", program.display(), START.as_secs()).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// The tokens that it generates as they come: greedy, without an end. Prompts that begin like others may be taken from its slots, as
    /// it does unless it is told not to.
    fn complete(&self, request: &Request) -> Result<Served, Box<dyn Error>> {
        let body = json!({
            "prompt": request.prompt,
            "n_predict": request.generate,
            "temperature": 0.0,
            "ignore_eos": true,
            "return_tokens": true,
            "stream": true,
        });
        let asked = Instant::now();
        let mut stream = send(self.address, "POST", "/completion", &body.to_string())?;
        let mut lines = BufReader::new(&mut stream);
        let mut served = Served::default();
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            if let Some(part) = part(&line)? {
                served.at.extend(part.tokens.iter().map(|_| asked.elapsed()));
                served.tokens.extend(part.tokens);
                if part.stop {
                    return Ok(served);
                }
            }
            line.clear();
        }
        Err(format!("an answer of {} tokens without an end", served.tokens.len()).into())
    }
}

/// What a line of an answer that comes in parts holds: an event in JSON. Heads and the sizes of chunks hold nothing.
fn part(line: &str) -> Result<Option<Part>, Box<dyn Error>> {
    match line.trim_end().strip_prefix("data: ") {
        Some(json) => Ok(Some(serde_json::from_str(json)?)),
        None if line.starts_with("HTTP/") && line.split(' ').nth(1) != Some("200") => {
            Err(format!("/completion: {}", line.trim_end()).into())
        }
        None => Ok(None),
    }
}

/// One request in HTTP 1.0, so that the answer is whole when the connection is closed.
fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = send(address, method, path, body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("{path}: status {status}: {body}").into());
    }
    Ok(body.to_owned())
}

/// A request, and where its answer comes from.
fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one request with these bytes; gives its address, and at the end what it was asked.
    fn answering(answer: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"{\"a\":1}") {
                let count = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, server)
    }

    #[test]
    fn an_answer_is_what_stands_behind_its_head() {
        let (address, server) = answering("HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{\"tokens\":[7,8]}");
        let body = exchange(address, "POST", "/completion", "{\"a\":1}").unwrap();
        assert_eq!(serde_json::from_str::<Part>(&body).unwrap().tokens, [7, 8]);
        assert!(server.join().unwrap().contains("Content-Length: 7\r\n\r\n"));
    }

    #[test]
    fn what_is_no_success_is_an_error() {
        for (answer, said) in
            [("HTTP/1.1 503 Service Unavailable\r\n\r\nloading", "status 503: loading"), ("HTTP/1.1", "no answer")]
        {
            let (address, server) = answering(answer);
            let error = exchange(address, "POST", "/completion", "{\"a\":1}").unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            server.join().unwrap();
        }
    }

    #[test]
    fn answers_come_in_parts() {
        let of = |line: &str| part(line).unwrap().map(|part| (part.tokens, part.stop));
        assert_eq!(of("data: {\"tokens\":[7],\"stop\":false,\"content\":\"a\"}\n"), Some((vec![7], false)));
        assert_eq!(of("data: {\"tokens\":[],\"stop\":true}\r\n"), Some((vec![], true)));
        for nothing in ["HTTP/1.1 200 OK\r\n", "\r\n", "1f\r\n"] {
            assert_eq!(of(nothing), None);
        }
        assert!(part("HTTP/1.1 400 Bad Request\r\n").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_ends_is_an_error() {
        let order = crate::workload::uniform(512, 2, 1);
        assert_eq!(version(Path::new("false")), "llama-server, as it was given");
        let error = run(Path::new("false"), Path::new("m.gguf"), &order).unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
    }
}
