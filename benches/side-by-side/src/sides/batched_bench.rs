//! llama.cpp's own benchmark of batches, `llama-batched-bench`, whose binary the user has.
//!
//! It decodes tokens drawn at random and chooses none, so that there are no outputs to compare.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::protocol::{Answer, Order, cells};

/// What it prints of one run, tokens/s.
#[derive(Debug, PartialEq, Deserialize)]
struct Line {
    speed_pp: f64,
    speed_tg: f64,
    speed: f64,
}

/// Runs an order in a process of its own, which loads the model anew; it measures itself.
///
/// # Errors
///
/// Requests of different lengths, a program that fails, or one that prints something else.
pub fn run(program: &Path, model: &Path, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let first = order.requests.first().ok_or("no requests")?;
    let length = (first.prompt.len(), first.generate);
    if order.requests.iter().any(|other| (other.prompt.len(), other.generate) != length) {
        return Err("llama-batched-bench takes requests of one length alone".into());
    }
    let count = u32::try_from(order.requests.len())?;
    let numbers = [
        ("-c", count * cells(order)),
        ("-npp", u32::try_from(length.0)?),
        ("-ntg", length.1),
        ("-npl", count),
        ("-t", order.threads),
        ("-tb", order.threads),
        ("-b", 2048),
        ("-ub", 512),
    ];
    let mut command = Command::new(program);
    command.arg("-m").arg(model).args(["--output-format", "jsonl"]);
    for (option, number) in numbers {
        command.args([option, &number.to_string()]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", program.display(), output.status).into());
    }
    let line = read(&String::from_utf8_lossy(&output.stdout)).ok_or("llama-batched-bench printed no result")?;
    let metrics = BTreeMap::from([
        ("prefill_tokens_per_second".to_owned(), line.speed_pp),
        ("generation_tokens_per_second".to_owned(), line.speed_tg),
        ("total_tokens_per_second".to_owned(), line.speed),
    ]);
    Ok(Answer { metrics, outputs: Vec::new() })
}

/// The first line that is a result.
fn read(text: &str) -> Option<Line> {
    text.lines().find_map(|line| serde_json::from_str(line.trim()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_among_other_lines() {
        let text =
            "loading\n{\"pp\": 128, \"speed_pp\": 700.5, \"t_tg\": 1.0, \"speed_tg\": 90.25, \"speed\": 200.0}\n";
        assert_eq!(read(text), Some(Line { speed_pp: 700.5, speed_tg: 90.25, speed: 200.0 }));
        assert_eq!(read("main: n_kv_max = 256\n{\"speed_pp\": 1}\n"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_fails_or_says_nothing_is_an_error() {
        let order = crate::workload::uniform(512, 2, 1);
        let model = Path::new("m.gguf");
        let error = |program: &str| run(Path::new(program), model, &order).unwrap_err().to_string();
        assert!(error("false").contains("exit status: 1"));
        assert!(error("true").contains("no result"));
        let mut uneven = order.clone();
        uneven.requests[1].generate += 1;
        assert!(run(Path::new("true"), model, &uneven).is_err());
    }
}
