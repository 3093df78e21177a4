//! Why answers end, and what they hold then.

use std::time::Duration;

use batch_suite::{params, prompt, stories, tiny};
use fixtures::Weights;
use llama_safe::{
    Context, EndReason, GenerateError, Grammar, Request, Sampler, SamplingError, Shutdown, Special, StopConditions,
    StopReason, Token,
};

use crate::watched;
use crate::wishes::{Wish, alone, builder, wishes};

#[test]
fn length() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).start().unwrap();
        for tokens in [1, 2, 9] {
            let request =
                Request::tokens(prompt(1, 5)).max_tokens(tokens).stop(StopConditions::new().end_of_text(false));
            let answer = engine.generate(request).unwrap().wait();
            assert_eq!(answer.reason, EndReason::Stop(StopReason::Length));
            assert_eq!(answer.tokens.len(), tokens as usize);
            assert_eq!(answer.prompt_tokens, 5);
            let (queued, first) = (answer.timings.queued.unwrap(), answer.timings.first_token.unwrap());
            assert!(queued <= first && first <= answer.timings.total);
        }
    });
}

#[test]
fn end_of_text() {
    watched(|| {
        let engine = builder(&stories()).start().unwrap();
        let answer = engine.generate(Request::text("Once upon a time")).unwrap().wait();
        let EndReason::Stop(StopReason::EndOfText { token }) = answer.reason else { panic!("{:?}", answer.reason) };
        assert!(engine.model().vocab().is_end_of_generation(token).unwrap());
        assert_eq!(answer.tokens.last(), Some(&token));
        // What the loop of one at a time says.
        let prompt = stories().tokenize("Once upon a time", Special::Bos).unwrap();
        let wish = Wish { prompt, sampler: Sampler::greedy(), tokens: 4096 };
        let mut context = Context::new(&stories(), &params().context_tokens(1024)).unwrap();
        let want = alone(&mut context, &wish, 0.02);
        if want.steady == want.tokens.len() {
            assert_eq!(answer.text, want.text);
        }
        assert!(answer.text.starts_with(", "), "{}", answer.text);
    });
}

#[test]
fn stop_strings() {
    watched(|| {
        let engine = builder(&stories()).start().unwrap();
        let all = engine.generate(Request::text("Once upon a time").max_tokens(60)).unwrap().wait().text;
        // From the middle of the text, over more than one token, and up to its last character but one.
        let from = all.char_indices().nth(40).unwrap().0;
        let string = &all[from..from + 9];
        let before = &all[..all.find(string).unwrap()];
        let stop = StopConditions::new().string(string).unwrap();
        let request = Request::text("Once upon a time").max_tokens(60).stop(stop);
        let mut read = String::new();
        let mut generation = engine.generate(request).unwrap();
        for piece in &mut generation {
            read.push_str(&piece.unwrap().text);
        }
        assert_eq!(read, before);
        assert_eq!(generation.text(), before);
        let end = generation.end().unwrap();
        assert_eq!(end.reason, EndReason::Stop(StopReason::String { string: string.into() }));
        assert_eq!(end.text, before);
    });
}

/// Text that may become a stop string is held back, and comes at the end if it did not.
#[test]
fn text_that_was_held_back() {
    watched(|| {
        let model = stories();
        // So few that the engine is not at the end of what is held back before this cancels it, however long that takes.
        let engine = builder(&model).unread_pieces(4).start().unwrap();
        let all = engine.generate(Request::text("Once upon a time").max_tokens(20)).unwrap().wait();
        // All but the first few characters begin a string that never comes.
        let stop = StopConditions::new().string(&format!("{}\u{1}", &all.text[4..])).unwrap();
        let request = || Request::text("Once upon a time").stop(stop.clone());
        let pieces: Vec<_> = engine.generate(request().max_tokens(20)).unwrap().map(Result::unwrap).collect();
        assert_eq!(pieces.iter().map(|piece| &*piece.text).collect::<String>(), all.text);
        let tokens: Vec<Token> = pieces.iter().filter_map(|piece| piece.token).collect();
        assert_eq!(tokens, all.tokens);
        // Cancelled in between, by a deadline, or by a shutdown: there it comes without a token.
        let mut generation = engine.generate(request()).unwrap();
        let mut read = String::new();
        for _ in 0..10 {
            read.push_str(&generation.next().unwrap().unwrap().text);
        }
        generation.cancel();
        let last = generation.by_ref().map(Result::unwrap).last().unwrap();
        assert_eq!(last.token, None);
        assert!(!last.text.is_empty());
        let end = generation.wait();
        assert_eq!(end.reason, EndReason::Cancelled);
        assert!(end.text.len() > read.len() && end.text.ends_with(&last.text));
    });
}

#[test]
fn wait_after_some_pieces_gives_all() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).start().unwrap();
        for wish in wishes(12) {
            let whole = engine.generate(wish.request()).unwrap().wait();
            let mut generation = engine.generate(wish.request()).unwrap();
            let read: Vec<_> = generation.by_ref().take(3).map(Result::unwrap).collect();
            assert_eq!(read.len(), 3);
            let rest = generation.wait();
            assert_eq!((rest.text, rest.tokens), (whole.text, whole.tokens));
            assert_eq!(rest.logprobs.len(), whole.logprobs.len());
        }
    });
}

#[test]
fn context_full() {
    watched(|| {
        let model = tiny(Weights::F16);
        let engine = builder(&model).sequences(2).context_tokens(512).start().unwrap();
        let room = engine.limits().sequence_tokens();
        assert_eq!(room, 256);
        for length in [room, room - 1, 200, 1] {
            let request = Request::tokens(prompt(3, length)).stop(StopConditions::new().end_of_text(false));
            let answer = engine.generate(request).unwrap().wait();
            assert_eq!(answer.reason, EndReason::ContextFull, "{length}");
            // The last token needs no room.
            assert_eq!(answer.tokens.len() as u32, room - length + 1, "{length}");
        }
    });
}

#[test]
fn cancelled() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(1).context_tokens(4096).unread_pieces(8).start().unwrap();
        // It would go on for long, and pauses after eight pieces.
        let mut first = engine.generate(Request::tokens(prompt(1, 5))).unwrap();
        assert!(first.next().unwrap().is_ok());
        let canceller = first.canceller();
        let second = engine.generate(Request::tokens(prompt(2, 5))).unwrap();
        second.cancel();
        let answer = second.wait();
        assert_eq!(answer.reason, EndReason::Cancelled);
        canceller.cancel();
        let answer = first.wait();
        assert_eq!(answer.reason, EndReason::Cancelled);
        assert!(!answer.tokens.is_empty());
        // Twice, and long after, is nothing.
        canceller.cancel();
        let answer = engine.generate(Request::tokens(prompt(3, 5)).max_tokens(3)).unwrap().wait();
        assert_eq!(answer.tokens.len(), 3);
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.submitted, stats.completed, stats.cancelled), (3, 1, 2), "{stats:?}");
        canceller.cancel();
    });
}

#[test]
fn deadlines() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(1).context_tokens(4096).unread_pieces(4).start().unwrap();
        // It runs, says some, and then waits to be read for ever: its time is over all the same.
        let running = engine.generate(Request::tokens(prompt(1, 5)).deadline(Duration::from_millis(150))).unwrap();
        // One whose time is over before it begins, and one that waits for its sequence too long.
        let late = engine.generate(Request::tokens(prompt(2, 5)).deadline(Duration::ZERO)).unwrap().wait();
        assert_eq!((late.reason, late.tokens.len()), (EndReason::Deadline, 0));
        assert_eq!(late.timings.queued, None);
        let far = Request::tokens(prompt(3, 5)).max_tokens(4).deadline(Duration::MAX);
        let far = engine.generate(far).unwrap();
        let mut running = running;
        while running.end().is_none() && running.next().is_some() {}
        let end = running.wait();
        assert_eq!(end.reason, EndReason::Deadline);
        assert_eq!(far.wait().tokens.len(), 4);
    });
}

/// A grammar that allows nothing more, and a chain that is left with nothing.
#[test]
fn samplers_that_fail() {
    watched(|| {
        let model = tiny(Weights::F16);
        let engine = builder(&model).start().unwrap();
        let nothing = Sampler::chain().custom_fn(|candidates| candidates.retain(|_| false)).greedy();
        let other = engine.generate(Request::tokens(prompt(2, 5)).max_tokens(30)).unwrap();
        let answer = engine.generate(Request::tokens(prompt(1, 5)).sampler(nothing)).unwrap().wait();
        let EndReason::Failed(GenerateError::Sampling(SamplingError::CustomLeftNothing { step: 0 })) = answer.reason
        else {
            panic!("{:?}", answer.reason)
        };
        assert!(answer.tokens.is_empty());
        let grammar = Grammar::gbnf(&model, r#"root ::= "ab""#, "root").unwrap();
        let sampler = Sampler::chain().grammar(grammar.clone()).unwrap().greedy();
        // With an end-of-generation token it ends by itself; without, there is nothing left to say.
        let answer = engine.generate(Request::tokens(prompt(1, 5)).sampler(sampler.clone())).unwrap().wait();
        assert!(matches!(answer.reason, EndReason::Stop(StopReason::EndOfText { .. })), "{:?}", answer.reason);
        assert_eq!(answer.text, "ab");
        let same = model.clone();
        let goes_on = move |candidates: &mut llama_safe::Candidates<'_>| {
            candidates.retain(|candidate| !same.vocab().is_end_of_generation(candidate.token()).unwrap());
        };
        let sampler = Sampler::chain().custom_fn(goes_on).grammar(grammar).unwrap().greedy();
        let mut generation = engine.generate(Request::tokens(prompt(1, 5)).sampler(sampler)).unwrap();
        let last = generation.by_ref().last().unwrap();
        assert!(matches!(last, Err(GenerateError::Sampling(_))), "{last:?}");
        assert!(generation.next().is_none());
        let answer = generation.wait();
        assert!(matches!(answer.reason, EndReason::Failed(GenerateError::Sampling(_))), "{:?}", answer.reason);
        assert_eq!(answer.text, "ab");
        assert_eq!(other.wait().tokens.len(), 30);
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.completed, stats.failed), (2, 2), "{stats:?}");
    });
}
