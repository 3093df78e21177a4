//! What was found, as `docs/architectures.md`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::child::Finding;
use super::run::Outcome;
use super::{MOST, is_wrong};

/// What was found of one architecture, with llama.cpp as it is and through the safe layer.
pub struct Pair {
    /// With the safe layer's corrections off.
    pub raw: Finding,
    /// As users have it.
    pub safe: Finding,
}

/// The whole document.
#[must_use]
pub fn markdown(pairs: &[Pair]) -> String {
    let made: Vec<&Pair> = pairs.iter().filter(|pair| pair.safe.start.is_none()).collect();
    let wrong: Vec<&Pair> = made.iter().copied().filter(|pair| pair.raw.wrong().next().is_some()).collect();
    let mut out = String::new();
    let mut say = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    say(format!(
        "# What each architecture supports\n\n\
         `cargo xtask architectures` writes this file. It makes a tiny untrained model of every architecture that llama.cpp names ({all}),\n\
         computes the same texts in many ways, and compares each with one text alone, one token a call. The numbers are normalised mean squared\n\
         errors of logits, in 32 bits: up to {MOST:.0e} counts as equal. `tests/architectures.rs` compares the same, and fails when it finds\n\
         something else than the safe layer's table (`llama-safe/src/quirks.rs`) says.\n\n\
         {made} of them can be made. {right} agree as llama.cpp is; {wrong} do not.\n",
        all = pairs.len(),
        made = made.len(),
        right = made.len() - wrong.len(),
        wrong = wrong.len(),
    ));
    say(faults(&wrong));
    say(all(&made));
    say(unmade(pairs));
    say(refusals(&made));
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn faults(wrong: &[&Pair]) -> String {
    let mut out = String::from(
        "## Where llama.cpp is wrong\n\n\
         With the safe layer's corrections off, and what the safe layer makes of it.\n\n\
         | architecture | what is wrong | ways that are wrong | worst | through the safe layer |\n|---|---|---|---|---|\n",
    );
    for pair in wrong {
        let what =
            llama_safe::known_faults().find(|(name, _)| *name == pair.raw.name).map_or("not known", |(_, what)| what);
        let ways: Vec<&str> = pair.raw.wrong().map(|(name, _)| *name).collect();
        let died = pair.raw.wrong().any(|(_, outcome)| matches!(outcome, Outcome::Died(_)));
        let failed = pair.raw.wrong().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        let worst = match pair.raw.worst() {
            error if error > MOST => size(error),
            _ => "-".to_owned(),
        };
        let end = if died {
            ", aborts"
        } else if failed {
            ", no context"
        } else {
            ""
        };
        let refused = pair.safe.outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Refused(_))).count();
        let safe = match refused {
            0 => format!("all agree ({})", size(pair.safe.worst())),
            _ => format!("{refused} refused, the others agree ({})", size(pair.safe.worst())),
        };
        let _ = writeln!(
            out,
            "| {} | {what} | {} of {}: {} | {worst}{end} | {safe} |",
            pair.raw.name,
            ways.len(),
            pair.raw.outcomes.len(),
            ways.join("; "),
        );
    }
    out
}

fn all(made: &[&Pair]) -> String {
    let mut out = String::from(
        "## All that can be made\n\n\
         *Worst* is the largest error of all ways that were computed: as llama.cpp is, and through the safe layer. The other columns are the safe\n\
         layer's: a tick where the result is right, a dash where it is refused.\n\n\
         | architecture | memory | worst, raw | worst, safe | several sequences | micro-batches | fork | fork of a prefix | truncate | state |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for pair in made {
        let mark = |script: &str| match pair.safe.of(script) {
            Some(Outcome::Ran(error)) if *error <= MOST => "✓",
            Some(Outcome::Refused(_)) => "-",
            _ => "wrong",
        };
        let has_memory = pair.safe.memory.as_deref() != Some("none");
        let if_memory = |script: &str| if has_memory { mark(script) } else { "" };
        let raw = if pair.raw.start.is_some() { "no oracle".to_owned() } else { size(pair.raw.worst()) };
        let _ = writeln!(
            out,
            "| {} | {} | {raw} | {} | {} | {} | {} | {} | {} | {} |",
            pair.safe.name,
            pair.safe.memory.as_deref().unwrap_or_default(),
            size(pair.safe.worst()),
            mark("equal lengths"),
            mark("micro-batches"),
            if_memory("fork"),
            if_memory("fork of a prefix, unified"),
            if_memory("truncate"),
            if_memory("state"),
        );
    }
    out
}

fn unmade(pairs: &[Pair]) -> String {
    let mut out = String::from("## Those that cannot be made\n\n| architecture | why |\n|---|---|\n");
    for pair in pairs.iter().filter(|pair| pair.safe.start.is_some()) {
        let why = fixtures::UNMADE.iter().find(|(name, _)| *name == pair.safe.name).map_or("not known", |(_, why)| why);
        let _ = writeln!(out, "| {} | {why} |", pair.safe.name);
    }
    out
}

/// The reasons of all dashes, with those whose they are.
fn refusals(made: &[&Pair]) -> String {
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pair in made {
        for (_, outcome) in &pair.safe.outcomes {
            if let Outcome::Refused(reason) = outcome {
                let names = by_reason.entry(general(reason, &pair.safe.name)).or_default();
                if names.last() != Some(&pair.safe.name.as_str()) {
                    names.push(&pair.safe.name);
                }
            }
        }
    }
    let mut out = String::from(
        "## What is refused, and why\n\n\
         The words of the typed error, with N for numbers. Models without memory compute a whole text in one pass, which must fit into a\n\
         micro-batch: all BERTs, and the diffusion models dream, llada, llada-moe and rnd1, on which\n\
         llama.cpp aborts where it does not (an assertion of `llama_context::encode`).\n\n\
         | reason | architectures |\n|---|---|\n",
    );
    for (reason, names) in by_reason {
        let _ = writeln!(out, "| {reason} | {} |", names.join(" "));
    }
    out
}

/// A reason without the numbers and the name of one case.
fn general(reason: &str, name: &str) -> String {
    let without_name = reason.replace(&format!("architecture {name} "), "architecture X ");
    let mut out = String::new();
    for part in without_name.split_inclusive(' ') {
        let digits = part.trim_end_matches([' ', ',', ':']);
        if !digits.is_empty() && digits.chars().all(|char| char.is_ascii_digit() || char == '.') {
            out.push('N');
            out.push_str(&part[digits.len()..]);
        } else {
            out.push_str(part);
        }
    }
    out
}

/// An error's order of magnitude: the same on every machine, or nearly.
fn size(error: f64) -> String {
    match error {
        0.0 => "0".to_owned(),
        error if error.is_finite() => format!("1e{}", error.log10().ceil() as i32),
        _ => "not a number".to_owned(),
    }
}

/// Whether a finding contradicts the safe layer's table, and how.
#[must_use]
pub fn contradictions(pair: &Pair) -> Vec<String> {
    let name = &pair.raw.name;
    let mut out = Vec::new();
    let known = llama_safe::known_faults().any(|(known, _)| known == name);
    let unmade = fixtures::UNMADE.iter().any(|(unmade, _)| unmade == name);
    match (&pair.safe.start, unmade) {
        (Some(why), false) => out.push(format!("{name} cannot be made, or has no oracle: {why:?}")),
        (None, true) => out.push(format!("{name} can be made: take it out of fixtures::UNMADE")),
        _ => {}
    }
    let raw: Vec<String> = pair.raw.wrong().map(|(way, outcome)| format!("{way}: {outcome:?}")).collect();
    let faulty = !raw.is_empty() || (pair.raw.start.is_some() && pair.safe.start.is_none());
    match (faulty, known) {
        (true, false) => out.push(format!("llama.cpp computes {name} wrong, and quirks.rs does not have it: {raw:#?}")),
        (false, true) => out.push(format!("llama.cpp computes {name} right: take it out of quirks.rs")),
        _ => {}
    }
    for (way, outcome) in pair.safe.outcomes.iter().filter(|(_, outcome)| is_wrong(outcome)) {
        out.push(format!("{name} is wrong through the safe layer, {way}: {outcome:?}"));
    }
    if pair.safe.start.is_none() && !pair.safe.outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Ran(_))) {
        out.push(format!("{name}: nothing was compared"));
    }
    // What does not depend on the text before it would agree with anything.
    if pair.safe.sensitivity.is_some_and(|number| number < 100.0 * MOST) {
        out.push(format!("{name}: the text before makes no difference: {:?}", pair.safe.sensitivity));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(outcomes: Vec<(&'static str, Outcome)>) -> Finding {
        Finding {
            name: "llama".to_owned(),
            memory: Some("attention".to_owned()),
            sensitivity: Some(1.0),
            start: None,
            outcomes,
        }
    }

    #[test]
    fn table_and_findings_part_ways_in_both_directions() {
        let right = || finding(vec![("whole", Outcome::Ran(1e-12)), ("fork", Outcome::Refused("so".to_owned()))]);
        let wrong = || finding(vec![("whole", Outcome::Ran(0.1))]);
        assert!(contradictions(&Pair { raw: right(), safe: right() }).is_empty());
        assert_eq!(contradictions(&Pair { raw: wrong(), safe: right() }).len(), 1);
        assert_eq!(contradictions(&Pair { raw: wrong(), safe: wrong() }).len(), 2);
        let named = |mut finding: Finding| {
            finding.name = "cogvlm".to_owned();
            finding
        };
        assert!(contradictions(&Pair { raw: named(wrong()), safe: named(right()) }).is_empty());
        assert_eq!(contradictions(&Pair { raw: named(right()), safe: named(right()) }).len(), 1);
        let died = || finding(vec![("whole", Outcome::Died("SIGABRT".to_owned()))]);
        assert_eq!(contradictions(&Pair { raw: died(), safe: right() }).len(), 1);
        let mut deaf = right();
        deaf.sensitivity = Some(0.0);
        assert_eq!(contradictions(&Pair { raw: right(), safe: deaf }).len(), 1);
    }

    #[test]
    fn reasons_lose_their_numbers() {
        assert_eq!(
            general("the batch holds 5 of 5 tokens, 1 more do not fit", "x"),
            "the batch holds N of N tokens, N more do not fit"
        );
        assert_eq!(general("models of architecture t5 can", "t5"), "models of architecture X can");
        assert_eq!(size(3.2e-13), "1e-12");
    }
}
