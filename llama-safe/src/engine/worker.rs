//! The engine's thread: takes commands, steps, and sleeps when there is nothing to do.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::contextual::Contextual;
use super::core::Core;
use super::embedding::{EmbedJob, Embeds};
use super::job::Task;
use super::prefix::HolderId;
use super::stats::Stats;
use super::voice::Speaker;

/// What is done with the requests of an engine that is shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// They are cancelled, at the latest when the batch that is being computed is done.
    Cancel,
    /// They are finished, however long that takes; pieces that nobody reads are kept.
    Finish,
    /// They are finished as far as that takes no longer than this, and cancelled then.
    FinishWithin(Duration),
}

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Vec<(HolderId, Box<Submission>)>),
    Embed(Box<EmbedJob>),
    Cancel(HolderId),
    /// Its listener has read something.
    Heard(HolderId),
    Shutdown(Shutdown),
}

/// A request on its way into the engine.
pub(crate) struct Submission(pub Task<Speaker>);

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Submission").field(&self.0.prompt.len()).finish()
    }
}

/// All that the thread owns.
pub(crate) struct Worker {
    pub core: Core<Contextual, Speaker>,
    pub embeds: Embeds,
    pub commands: Receiver<Command>,
    pub stats: Arc<Mutex<Stats>>,
}

/// How the thread goes on.
enum Mode {
    Open,
    /// No more requests; those that there are must be done by then, if there is an end.
    Closing(Option<Instant>),
}

impl Worker {
    /// Runs until it is shut down, or nobody is left who could.
    pub(crate) fn run(mut self) {
        let mut mode = Mode::Open;
        let mut waiting: VecDeque<Command> = VecDeque::new();
        loop {
            let begun = Instant::now();
            loop {
                let command = match waiting.pop_front() {
                    Some(command) => command,
                    None => match self.commands.try_recv() {
                        Ok(command) => command,
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => Command::Shutdown(Shutdown::Cancel),
                    },
                };
                match command {
                    Command::Shutdown(Shutdown::Cancel) => return self.stop(),
                    Command::Shutdown(Shutdown::Finish) => mode = self.close(None),
                    Command::Shutdown(Shutdown::FinishWithin(patience)) => {
                        mode = self.close(Instant::now().checked_add(patience));
                    }
                    other => self.take(other, &mode),
                }
            }
            let now = Instant::now();
            if let Mode::Closing(end) = mode {
                let is_late = end.is_some_and(|end| end <= now);
                if is_late || !(self.core.is_busy() || self.embeds.is_busy()) {
                    return self.stop();
                }
            }
            let stepped = self.core.step(now);
            let embedded = self.embeds.step();
            self.publish((stepped || embedded).then(|| begun.elapsed()));
            if !stepped && !embedded && !self.idle(&mode, &mut waiting) {
                return self.stop();
            }
        }
    }

    /// Takes no more requests. Those that there are wait for no listener from now on.
    fn close(&mut self, end: Option<Instant>) -> Mode {
        self.core.listen_to_nobody();
        Mode::Closing(end)
    }

    /// Waits for a command, or for the time at which something ends by itself. False if there will be no command any more.
    fn idle(&self, mode: &Mode, waiting: &mut VecDeque<Command>) -> bool {
        let end = if let Mode::Closing(end) = mode { *end } else { None };
        let next = self.core.next_deadline().into_iter().chain(end).min();
        let received = match next {
            None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => self.commands.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match received {
            Ok(command) => waiting.push_back(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn take(&mut self, command: Command, mode: &Mode) {
        match command {
            Command::Submit(tasks) => {
                for (holder, submission) in tasks {
                    self.core.submit(holder, submission.0);
                    // What was on its way when the door was shut.
                    if matches!(mode, Mode::Closing(_)) {
                        self.core.cancel(holder);
                    }
                }
            }
            Command::Embed(job) => self.embeds.submit(*job),
            Command::Cancel(holder) => self.core.cancel(holder),
            Command::Heard(holder) => self.core.heard(holder),
            Command::Shutdown(_) => {}
        }
    }

    fn stop(mut self) {
        // What was submitted and not taken yet gets its end as well.
        while let Ok(command) = self.commands.try_recv() {
            self.take(command, &Mode::Open);
        }
        self.core.cancel_all();
        self.embeds.cancel_all();
        self.publish(None);
    }

    fn publish(&mut self, busy: Option<Duration>) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let time = stats.busy + busy.unwrap_or_default();
        *stats = self.core.stats();
        stats.busy = time;
        stats.embedded = self.embeds.done();
    }
}
