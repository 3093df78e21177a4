//! What is shown while the sequences run: a line for each on a terminal, a line for each that is complete elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use console::{Term, measure_text_width};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::generate::Sink;

/// Columns of a line that are not the sequence's: its number, two spaces, and the last one, where terminals wrap.
const MARGIN: usize = 6;

/// Shows all sequences at once.
pub struct View {
    /// Each sequence's prompt and text so far, without line ends.
    texts: Vec<String>,
    live: Option<Lines>,
}

/// The lines of a terminal.
struct Lines {
    prompt: ProgressBar,
    sequences: Vec<ProgressBar>,
    width: usize,
}

impl View {
    /// A view of so many prompts. It is live where a person watches: text on a terminal, and nothing piped away.
    pub fn new(prompts: &[String]) -> Self {
        let texts = prompts.iter().map(|prompt| format!("{} ▸ ", one_line(prompt))).collect();
        let live = (io::stdout().is_terminal() && io::stderr().is_terminal()).then(|| Lines::new(prompts.len()));
        Self { texts, live }
    }

    /// Takes the live lines away and prints every text in full. Elsewhere they have been printed already.
    pub fn close(&mut self) -> Result<()> {
        if let Some(lines) = self.live.take() {
            lines.prompt.finish_and_clear();
            lines.sequences.iter().for_each(ProgressBar::finish_and_clear);
            for index in 0..self.texts.len() {
                self.print(index)?;
            }
        }
        Ok(())
    }

    fn print(&self, index: usize) -> Result<()> {
        print(&format!("{:>3}  {}", index + 1, self.texts[index]))
    }
}

impl Sink for View {
    fn prompt(&mut self, done: usize, total: usize) -> Result<()> {
        if let Some(lines) = &self.live {
            lines.prompt.set_length(total as u64);
            lines.prompt.set_position(done as u64);
            if done == total {
                lines.prompt.finish_and_clear();
            }
        }
        Ok(())
    }

    fn text(&mut self, request: usize, text: &str) -> Result<()> {
        self.texts[request].push_str(&one_line(text));
        if let Some(lines) = &self.live {
            lines.sequences[request].set_message(tail(&self.texts[request], lines.width));
        }
        Ok(())
    }

    fn end(&mut self, request: usize) -> Result<()> {
        match &self.live {
            Some(lines) => lines.sequences[request].abandon(),
            None => self.print(request)?,
        }
        Ok(())
    }
}

impl Lines {
    fn new(sequences: usize) -> Self {
        let all = MultiProgress::new();
        let prompt = all.add(bar("prompt"));
        let line = |index: usize| {
            let bar = all.add(ProgressBar::new_spinner());
            bar.set_style(style("{prefix:>3.bold}  {wide_msg}"));
            bar.set_prefix(format!("{}", index + 1));
            bar
        };
        let sequences = (0..sequences).map(line).collect();
        let width = usize::from(Term::stderr().size().1).saturating_sub(MARGIN);
        Self { prompt, sequences, width }
    }
}

/// Shows how many requests are done, where they run one at a time.
pub struct Count(pub ProgressBar);

impl Sink for Count {
    fn prompt(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn text(&mut self, _: usize, _: &str) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, _: usize) -> Result<()> {
        self.0.inc(1);
        Ok(())
    }
}

/// A bar that shows itself on a terminal only.
pub fn bar(label: &str) -> ProgressBar {
    let bar = ProgressBar::new(1).with_message(label.to_string());
    bar.set_style(style("{msg} [{bar:30}] {pos}/{len} {elapsed}"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line on standard output.
///
/// # Errors
/// Where it is closed: `println!` would panic.
pub fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("writing to standard output")
}

/// A line on standard error. A closed one is no reason to stop.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The text with its control characters spelled out: a model may say anything, escape sequences included.
fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        line
    })
}

/// As much of the text's end as fits into so many columns.
fn tail(text: &str, width: usize) -> String {
    if measure_text_width(text) <= width {
        return text.to_string();
    }
    let mut room = width.saturating_sub(1); // for the ellipsis
    let mut start = text.len();
    for (index, character) in text.char_indices().rev() {
        let columns = measure_text_width(character.encode_utf8(&mut [0; 4]));
        if columns > room {
            break;
        }
        room -= columns;
        start = index;
    }
    format!("…{}", &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(one_line("a\nb\t\u{1b}[2Jé"), r"a\nb\t\u{1b}[2Jé");
    }

    #[test]
    fn the_end_is_what_shows() {
        assert_eq!(tail("short", 5), "short");
        assert_eq!(tail("a longer text", 5), "…text");
        assert_eq!(tail("日本語", 5), "…本語");
        assert_eq!(tail("日本語", 4), "…語");
        assert_eq!(tail("text", 0), "…");
    }

    #[test]
    fn texts_grow_without_a_terminal() {
        let mut view = View { texts: vec!["a ▸ ".into(), "b ▸ ".into()], live: None };
        view.prompt(1, 2).unwrap();
        view.text(1, "x\n").unwrap();
        view.text(1, "y").unwrap();
        view.end(1).unwrap();
        view.close().unwrap();
        assert_eq!(view.texts, ["a ▸ ", "b ▸ x\\ny"]);
    }
}
