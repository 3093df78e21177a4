//! Requests that are served as they come, by as many clients as run at a time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{Answer, Order, Request};
use crate::workload::over_time;

/// One request of those that are served as they come.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// What was generated.
    pub tokens: Vec<i32>,
    /// When each token came, from when the request came.
    pub at: Vec<Duration>,
}

impl Served {
    /// What came of all requests, each with its place in the order: prompts and generation overlap, so that rates are over the whole
    /// `time`; and how long a client waits.
    #[must_use]
    pub fn answer(order: &Order, served: impl IntoIterator<Item = (usize, Self)>, time: Duration) -> Answer {
        let mut outputs = vec![Vec::new(); order.requests.len()];
        let (mut first, mut gaps) = (Vec::new(), Vec::new());
        for (index, Self { tokens, at }) in served {
            outputs[index] = tokens;
            first.extend(at.first().copied());
            gaps.extend(at.windows(2).map(|pair| pair[1].saturating_sub(pair[0])));
        }
        // As where prompts come first: a request's first token comes with its prompt.
        let generated: usize = outputs.iter().map(|output| output.len().saturating_sub(1)).sum();
        let prompts: usize = order.requests.iter().map(|request| request.prompt.len()).sum();
        let rate = |tokens: usize| tokens as f64 / time.as_secs_f64().max(1e-9);
        let mut metrics = BTreeMap::from([
            ("total_tokens_per_second".to_owned(), rate(prompts + generated)),
            ("generated_tokens_per_second".to_owned(), rate(generated)),
        ]);
        let waits = [
            ("first_token_p50_ms", percentile(&mut first, 0.5)),
            ("first_token_p99_ms", percentile(&mut first, 0.99)),
            ("token_gap_p50_ms", percentile(&mut gaps, 0.5)),
            ("token_gap_p99_ms", percentile(&mut gaps, 0.99)),
        ];
        metrics.extend(waits.into_iter().filter_map(|(name, wait)| Some((name.to_owned(), wait?))));
        Answer { metrics, outputs }
    }
}

/// The time that so many of some times are no longer than, milliseconds; none of none.
fn percentile(times: &mut [Duration], share: f64) -> Option<f64> {
    times.sort_unstable();
    let place = (times.len() as f64 * share).ceil() as usize;
    times.get(place.saturating_sub(1)).map(|time| time.as_secs_f64() * 1e3)
}

/// Has clients send the requests of an order until all are served: as many clients as run at a time, each one request after the other;
/// or, where requests come over time, each when it comes.
///
/// # Errors
///
/// The first of a request's.
pub fn by_clients(order: &Order, serve: impl Fn(&Request) -> Result<Served, String> + Sync) -> Result<Answer, String> {
    let left: Mutex<Vec<usize>> = Mutex::new((0..order.requests.len()).rev().collect());
    let next = || left.lock().ok()?.pop();
    let started = Instant::now();
    let client = || -> Result<Vec<(usize, Served)>, String> {
        let mut done = Vec::new();
        while let Some(index) = next() {
            let request = &order.requests[index];
            thread::sleep(arrival(request).saturating_sub(started.elapsed()));
            done.push((index, serve(request)?));
        }
        Ok(done)
    };
    let clients = if over_time(order) { order.requests.len() } else { order.concurrent as usize };
    let done: Result<Vec<_>, String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err("a client failed".to_owned()))).collect()
    });
    let time = started.elapsed();
    Ok(Served::answer(order, done?.into_iter().flatten(), time))
}

/// When a request comes, from the beginning of its order.
#[must_use]
pub fn arrival(request: &Request) -> Duration {
    Duration::from_millis(request.after_ms.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_request_is_served_once_and_answers_keep_their_places() {
        let order = crate::workload::load(512, 8, 1);
        let served = |request: &Request| {
            let at = [10, 12, 19].map(Duration::from_millis).to_vec();
            Ok(Served { tokens: vec![request.prompt[0]; 3], at })
        };
        let answer = by_clients(&order, served).unwrap();
        for (output, request) in answer.outputs.iter().zip(&order.requests) {
            assert_eq!(*output, [request.prompt[0]; 3]);
        }
        assert_eq!((answer.metrics["first_token_p50_ms"], answer.metrics["first_token_p99_ms"]), (10.0, 10.0));
        assert_eq!((answer.metrics["token_gap_p50_ms"], answer.metrics["token_gap_p99_ms"]), (2.0, 7.0));
        let ratio = answer.metrics["total_tokens_per_second"] / answer.metrics["generated_tokens_per_second"];
        assert!((ratio - (128.0 + 2.0) / 2.0).abs() < 1e-6, "the first token comes with the prompt: {ratio}");
        assert_eq!(by_clients(&order, |_| Err("no".to_owned())), Err("no".to_owned()));
    }

    #[test]
    fn requests_that_come_over_time_do_not_wait_for_one_another() {
        let mut order = crate::workload::uniform(512, 3, 1);
        for (request, after_ms) in order.requests.iter_mut().zip([0, 1, 2]) {
            request.after_ms = after_ms;
        }
        order.concurrent = 1;
        // None of them is done before all have come: that a third one never comes is seen.
        let come = AtomicUsize::new(0);
        let started = Instant::now();
        let answer = by_clients(&order, |request| {
            assert!(started.elapsed() >= arrival(request));
            come.fetch_add(1, Ordering::SeqCst);
            while come.load(Ordering::SeqCst) < 3 {
                if started.elapsed() > Duration::from_secs(20) {
                    return Err("the others wait for this one".to_owned());
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(Served { tokens: vec![request.prompt[0]], at: vec![Duration::ZERO] })
        });
        assert_eq!(answer.unwrap().outputs.len(), 3);
    }
}
