//! A side as a process that waits for orders. It computes nothing while others have their turn.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::protocol::{Answer, Hello, Order};

/// A side that has loaded its model. It ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What it says of itself.
    pub hello: Hello,
}

impl Process {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// A program that does not start, or ends before it says hello.
    pub fn start(mut command: Command) -> Result<Self> {
        let what = format!("{command:?}");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("starting {what}"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let mut answers = BufReader::new(answers.context("its output")?);
        let hello = read(&mut answers).and_then(|line| Ok(serde_json::from_str(&line)?));
        match hello {
            Ok(hello) => Ok(Self { child, orders, answers, hello }),
            Err(error) => {
                drop(orders);
                child.wait()?;
                Err(error.context(format!("the first line of {what}")))
            }
        }
    }

    /// Its number to the system.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has an order run, and waits for what comes of it.
    ///
    /// # Errors
    ///
    /// A side that fails: its own message is on standard error.
    pub fn run(&mut self, order: &Order) -> Result<Answer> {
        let orders = self.orders.as_mut().context("its input")?;
        writeln!(orders, "{}", serde_json::to_string(order)?).context("giving an order")?;
        let answer: Answer = serde_json::from_str(&read(&mut self.answers)?).context("an answer")?;
        // A side may not tell what it generated.
        if !answer.outputs.is_empty() && answer.outputs.len() != order.requests.len() {
            bail!("{} outputs for {} requests", answer.outputs.len(), order.requests.len());
        }
        Ok(answer)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is how it is told to end.
        self.orders = None;
        let _ = self.child.wait();
    }
}

fn read(answers: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if answers.read_line(&mut line)? == 0 {
        bail!("the side has ended");
    }
    Ok(line)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::workload::uniform;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_side_answers_each_order() {
        let script =
            r#"echo '{"version":"echo 1"}'; while read order; do echo '{"metrics":{"x":2},"outputs":[[7]]}'; done"#;
        let mut side = Process::start(shell(script)).unwrap();
        assert_eq!(side.hello.version, "echo 1");
        for _ in 0..2 {
            let answer = side.run(&uniform(512, 1, 1)).unwrap();
            assert_eq!((answer.metrics["x"], answer.outputs), (2.0, vec![vec![7]]));
        }
        assert!(side.run(&uniform(512, 2, 1)).unwrap_err().to_string().contains("1 outputs for 2 requests"));
    }

    #[test]
    fn a_side_that_ends_or_says_something_else_is_an_error() {
        assert!(Process::start(shell("exit 3")).is_err());
        assert!(Process::start(shell("echo good morning")).is_err());
        let mut side = Process::start(shell(r#"echo '{"version":"short"}'; read order"#)).unwrap();
        assert!(side.run(&uniform(512, 1, 1)).is_err());
        assert!(Process::start(Command::new("there-is-no-such-program")).is_err());
    }
}
