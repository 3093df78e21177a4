//! Answers as streams: what the iterator gives, many on one thread, and nothing left of what is dropped.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use async_executor::LocalExecutor;
use batch_suite::{is_leak_check, prompt, tiny};
use fixtures::Weights;
use futures_lite::StreamExt;
use futures_lite::future::block_on;
use llama_safe::{EndReason, Generation, Piece, Request, RequestError, Shutdown, StopConditions};

use crate::watched;
use crate::wishes::{builder, wishes};

fn endless(salt: u32) -> Request {
    Request::tokens(prompt(salt, 5)).stop(StopConditions::new().end_of_text(false))
}

#[test]
fn a_stream_gives_what_the_iterator_gives() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(2).context_tokens(512).deterministic(true).start().unwrap();
        for wish in wishes(6) {
            let iterated: Vec<Piece> =
                Iterator::map(engine.generate(wish.request()).unwrap(), Result::unwrap).collect();
            let (streamed, end) = block_on(async {
                let mut generation = engine.generate_async(wish.request()).await.unwrap();
                let mut pieces = Vec::new();
                while let Some(piece) = StreamExt::next(&mut generation).await {
                    pieces.push(piece.unwrap());
                }
                // Over is over.
                assert!(StreamExt::next(&mut generation).await.is_none());
                (pieces, generation.finished().await)
            });
            assert_eq!(streamed, iterated);
            assert_eq!(end.tokens.len(), streamed.iter().filter(|piece| piece.token.is_some()).count());
        }
    });
}

#[test]
fn many_streams_on_one_thread() {
    watched(|| {
        let count = if is_leak_check() { 20 } else { 200 };
        let engine = builder(&tiny(Weights::F16)).sequences(8).context_tokens(8 * 256).queue(16).start().unwrap();
        let executor = LocalExecutor::new();
        let tasks: Vec<_> = (0..count)
            .map(|salt| {
                let engine = &engine;
                executor.spawn(async move {
                    let mut generation = engine.generate_async(endless(salt).max_tokens(12)).await.unwrap();
                    let mut read = String::new();
                    while let Some(piece) = generation.next_async().await {
                        read.push_str(&piece.unwrap().text);
                    }
                    let end = generation.finished().await;
                    assert_eq!(end.tokens.len(), 12);
                    assert_eq!(end.text, read);
                    end.tokens
                })
            })
            .collect();
        let answers = block_on(executor.run(async {
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(task.await);
            }
            answers
        }));
        assert_eq!(answers.len(), count as usize);
        drop(executor);
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!((stats.submitted, stats.completed), (u64::from(count), u64::from(count)), "{stats:?}");
    });
}

/// Polled once and dropped while it waits for room: it takes no place, and wakes the next one.
#[test]
fn a_dropped_future_takes_no_place() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(1).context_tokens(4096).queue(2).unread_pieces(2);
        let engine = engine.start().unwrap();
        let poll = |future: &mut std::pin::Pin<&mut dyn Future<Output = Result<Generation, RequestError>>>| {
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        let mut submitted = 0;
        for _ in 0..20 {
            // As many as there are places, whoever has begun: the rest has to wait.
            let mut held = Vec::new();
            while let Ok(generation) = engine.try_generate(&endless(1).max_tokens(400)) {
                held.push(generation);
                submitted += 1;
            }
            {
                let mut dropped = pin!(engine.generate_async(endless(2)));
                if let Poll::Ready(taken) = poll(&mut (dropped.as_mut() as _)) {
                    drop(taken.unwrap());
                    submitted += 1;
                }
            }
            drop(held);
            assert_eq!(
                block_on(async { engine.generate_async(endless(3).max_tokens(3)).await.unwrap().finished().await })
                    .tokens
                    .len(),
                3
            );
            submitted += 1;
        }
        // All places are free again.
        let taken = [engine.try_generate(&endless(4).max_tokens(2)), engine.try_generate(&endless(5).max_tokens(2))];
        assert!(taken.into_iter().all(|taken| taken.unwrap().wait().tokens.len() == 2));
        let stats = engine.shutdown(Shutdown::Finish);
        assert_eq!(stats.submitted, submitted + 2, "{stats:?}");
        assert_eq!(stats.completed + stats.cancelled, stats.submitted, "{stats:?}");
    });
}

/// Streams whose engine ends come to an end.
#[test]
fn streams_end_with_the_engine() {
    watched(|| {
        let engine = builder(&tiny(Weights::F16)).sequences(2).context_tokens(8192).start().unwrap();
        let mut all: Vec<Generation> = (0..5).map(|salt| engine.generate(endless(salt)).unwrap()).collect();
        block_on(async {
            assert!(StreamExt::next(&mut all[0]).await.unwrap().is_ok());
            drop(engine);
            for generation in all {
                assert_eq!(generation.finished().await.reason, EndReason::Cancelled);
            }
        });
    });
}
