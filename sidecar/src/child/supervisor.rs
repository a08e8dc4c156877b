//! The parent of a program: hands signals on, keeps its exit code, starts it anew.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_current_process_group, kill_process_group};
use tokio::time::sleep_until;

use super::program::{Change, Program, lives};
use super::restart::{Decision, Restarts};
use super::signals::{Arrival, Signals, StopSignal, is_deadly, name};
use super::terminal::Terminal;
use super::{ChildError, Command, Environment, Rotation, Secrets, orphans};
use crate::digest::Digest;

/// How often a process group is looked at that is to become empty: the kernel tells nobody.
const LOOK: Duration = Duration::from_millis(50);

/// How long those killed may take to be gone: one that waits for a disk may take for ever.
const BURIAL: Duration = Duration::from_secs(2);

/// How a program is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is started anew when its secrets change.
    pub restart: Restart,
    /// The signal that asks it to end before it is started anew.
    pub stop_signal: StopSignal,
    /// How long it may take to end then, before it is killed.
    pub grace: Duration,
    /// The shortest time from one start to the next.
    pub min_interval: Duration,
    /// A restart waits a random part of this, so that a fleet does not restart in step; two seconds
    /// at the least, for what else has changed.
    pub jitter: Duration,
    /// Who is sent the signals that this process is sent.
    pub forward: Forward,
}

impl Default for Policy {
    /// No restart; else SIGTERM, half a minute of grace as Kubernetes gives it, at most one restart a
    /// minute, spread over ten seconds.
    fn default() -> Self {
        Self {
            restart: Restart::Never,
            stop_signal: StopSignal::TERM,
            grace: Duration::from_secs(30),
            min_interval: Duration::from_secs(60),
            jitter: Duration::from_secs(10),
            forward: Forward::Group,
        }
    }
}

/// Whether a program is started anew when its secrets change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It keeps the environment it was started with; files change under it.
    Never,
    /// It is stopped and started anew.
    OnRotation,
}

/// Who is sent signals. The program has a process group of its own in either case, and who is left
/// of it is killed when the grace of a restart is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The program and what it started, as a terminal does it: right under `sh -c` too.
    Group,
    /// The program alone.
    Child,
}

/// What becomes of this process once the secrets are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It stays the program's parent, and hands on what came before.
    Supervised,
    /// The program takes its place; nobody will be there to hand on anything.
    Replaced,
}

/// The parent of one program. From its making on, signals are kept for the program: none of those
/// that it hands on ends this process.
#[derive(Debug)]
pub struct Supervisor {
    command: Command,
    policy: Policy,
    signals: Signals,
}

impl Supervisor {
    /// To be made first of all, inside a tokio runtime with I/O and time: as PID 1, a signal without
    /// a listener is lost.
    pub fn new(command: Command, policy: Policy) -> Result<Self, ChildError> {
        Ok(Self { command, policy, signals: Signals::listen().map_err(ChildError::Signals)? })
    }

    /// Waits, before the program is started, until this process is asked to end, and gives the exit
    /// code that tells so. Other signals go on waiting for the program; where it will be `Replaced`,
    /// those end this process that would have ended a program that does not listen yet. May be dropped
    /// at any time.
    pub async fn asked_to_end(&mut self, start: Start) -> u8 {
        let stop = self.policy.stop_signal;
        let wanted = |signal| ends(signal, stop) || (start == Start::Replaced && is_deadly(signal));
        loop {
            match self.signals.next_of(wanted).await {
                Arrival::Child => orphans::look(),
                Arrival::Signal(signal) => {
                    tracing::info!("{}: ending before the program was started", name(signal));
                    // A signal's number is under 65.
                    return 128 + signal.as_raw() as u8;
                }
            }
        }
    }

    /// Starts the program with `first`, which is of `secrets`, and looks after it until it ends by
    /// itself or as it was asked to. Gives its exit code, 128 + n for a death by signal n.
    ///
    /// A rotation that comes while a restart waits takes its place; one to what the program runs with
    /// is nothing. Once this process was asked to end, there are no restarts, and
    /// the program may take as long as it is let.
    ///
    /// The environment is wiped as soon as the program has it, unless restarts may need it again.
    /// The copies that the standard library makes to start a program are not wiped.
    pub async fn run(self, first: Rotation, secrets: Secrets) -> Result<u8, ChildError> {
        let Policy { min_interval, jitter, .. } = self.policy;
        Life {
            command: self.command,
            policy: self.policy,
            signals: self.signals,
            terminal: Terminal::open(),
            environment: first.environment.unwrap_or_default(),
            restarts: Restarts::new(min_interval, jitter, first.state, Instant::now()),
            secrets,
            ending: false,
            suspended: None,
        }
        .live()
        .await
    }
}

/// Whether a signal asks to end.
fn ends(signal: Signal, stop: StopSignal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT) || signal == stop.0
}

/// The life of a program, restarts included.
struct Life {
    command: Command,
    policy: Policy,
    signals: Signals,
    terminal: Option<Terminal>,
    /// The newest.
    environment: Environment,
    restarts: Restarts<Digest>,
    secrets: Secrets,
    /// Whether we were asked to end.
    ending: bool,
    /// Set while we are stopped along with the program.
    suspended: Option<Suspended>,
}

/// A stop by the terminal, which a shell will end.
struct Suspended {
    /// Whether the program is to have the terminal then.
    lend: bool,
}

/// What happens to a program.
enum Event {
    Signal(Signal),
    Child,
    Rotation,
    Due,
}

impl Life {
    async fn live(mut self) -> Result<u8, ChildError> {
        let mut program = self.start(None)?;
        loop {
            if let Some(code) = self.until_due(&program).await? {
                self.end(program);
                return Ok(code);
            }
            tracing::info!(pid = %program.pid(), "its secrets have changed: stopping the program, to start it anew");
            let kill_at = Instant::now() + self.policy.grace;
            let code = self.stop(&program, kill_at).await?;
            if self.terminal.as_ref().is_some_and(Terminal::is_lent) && !self.ending {
                // The terminal stays with the group, and the group exists as long as the dead one stays.
                program.signal(Signal::KILL, Forward::Group);
                match self.start(Some(program.group())) {
                    Ok(next) => std::mem::replace(&mut program, next).bury(),
                    Err(error) => {
                        self.end(program);
                        return Err(error);
                    }
                }
                continue;
            }
            let group = program.group();
            self.end(program);
            self.empty(group, kill_at).await;
            if self.ending {
                return Ok(code);
            }
            program = self.start(None)?;
        }
    }

    /// Starts the program, in `group` or in one of its own.
    fn start(&mut self, group: Option<Pid>) -> Result<Program, ChildError> {
        let program = Program::start(&self.command, &self.environment, group)?;
        self.restarts.restarted(Instant::now());
        if self.policy.restart == Restart::Never {
            // Nobody needs it again.
            self.environment = Environment::default();
        }
        tracing::info!(pid = %program.pid(), program = %self.command.program().display(), "started the program");
        if let Some(terminal) = self.terminal.as_mut().filter(|terminal| terminal.is_for_talk()) {
            terminal.lend(program.group());
        }
        Ok(program)
    }

    /// Lets a program go that has ended.
    fn end(&mut self, program: Program) {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back();
        }
        program.bury();
    }

    /// Waits until the program ends, and gives its exit code, or until it is to be started anew.
    async fn until_due(&mut self, program: &Program) -> Result<Option<u8>, ChildError> {
        loop {
            let due = if self.ending { None } else { self.restarts.due() };
            match self.next(due).await {
                Event::Due => return Ok(None),
                Event::Rotation => {}
                Event::Signal(signal) => self.hand_on(signal, program),
                Event::Child => {
                    if let Some(code) = self.changed(program)? {
                        return Ok(Some(code));
                    }
                }
            }
        }
    }

    /// Asks the program to end, kills it at `kill_at`, and gives its exit code.
    async fn stop(&mut self, program: &Program, kill_at: Instant) -> Result<u8, ChildError> {
        program.signal(self.policy.stop_signal.0, self.policy.forward);
        let mut killed = false;
        loop {
            let due = (!killed && !self.ending).then_some(kill_at);
            match self.next(due).await {
                Event::Due => {
                    tracing::warn!(pid = %program.pid(), grace = ?self.policy.grace, "the program did not end in time: killing it");
                    program.signal(Signal::KILL, Forward::Group);
                    killed = true;
                }
                Event::Rotation => {}
                Event::Signal(signal) => self.hand_on(signal, program),
                Event::Child => {
                    if let Some(code) = self.changed(program)? {
                        return Ok(code);
                    }
                }
            }
        }
    }

    /// Waits until nobody is left of a group whose program has ended: what it started may take its
    /// time to end too, and holds what the next one needs. Once we are asked to end there is no next
    /// one, and nobody waits, as at the program's own end.
    async fn empty(&mut self, group: Pid, kill_at: Instant) {
        let mut killed = false;
        while !self.ending && lives(group) {
            let now = Instant::now();
            if !killed && now >= kill_at {
                let _ = kill_process_group(group, Signal::KILL);
                killed = true;
            }
            if now >= kill_at + BURIAL {
                tracing::warn!("what the program had started is still there");
                return;
            }
            if let Event::Signal(signal) = self.next(Some(now + LOOK)).await {
                self.note(signal);
                let _ = kill_process_group(group, signal);
            }
        }
    }

    /// What happens next, before `due`.
    async fn next(&mut self, due: Option<Instant>) -> Event {
        let due = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        // In this order: an end comes before a restart.
        tokio::select! {
            biased;
            arrival = self.signals.next() => match arrival {
                Arrival::Signal(signal) => Event::Signal(signal),
                Arrival::Child => {
                    orphans::look();
                    Event::Child
                }
            },
            rotation = self.secrets.next() => {
                self.rotated(rotation);
                Event::Rotation
            }
            () = due => Event::Due,
        }
    }

    fn rotated(&mut self, Rotation { state, environment }: Rotation) {
        if self.policy.restart == Restart::Never {
            return;
        }
        let now = Instant::now();
        let decision = self.restarts.rotated(state, now, fastrand::f64());
        if let Some(environment) = environment {
            self.environment = environment;
        }
        match decision {
            Decision::Planned => {
                let wait = self.restarts.due().unwrap_or(now).saturating_duration_since(now);
                tracing::info!(?wait, "secrets have changed: the program will be started anew");
            }
            Decision::CalledOff => tracing::info!("secrets are as they were: the program is not started anew"),
            Decision::Replaced | Decision::Known => {}
        }
    }

    /// Sends the program a signal that was sent to us.
    fn hand_on(&mut self, signal: Signal, program: &Program) {
        self.note(signal);
        if signal != Signal::CONT {
            return program.signal(signal, self.policy.forward);
        }
        let suspended = self.suspended.take();
        if let Some(terminal) = &mut self.terminal
            && suspended.as_ref().map_or_else(|| terminal.is_for_talk(), |suspended| suspended.lend)
        {
            // If a shell has put us in the foreground, the program is who is talked to.
            terminal.lend(program.group());
        }
        // The terminal had stopped the whole group.
        program.signal(signal, if suspended.is_some() { Forward::Group } else { self.policy.forward });
    }

    fn note(&mut self, signal: Signal) {
        tracing::debug!("{}: handed on to the program", name(signal));
        if !self.ending && ends(signal, self.policy.stop_signal) {
            tracing::info!("{}: ending with the program", name(signal));
            self.ending = true;
        }
    }

    /// Attends to what became of the program; gives its exit code if it has ended.
    fn changed(&mut self, program: &Program) -> Result<Option<u8>, ChildError> {
        match program.change()? {
            Change::Ended(code) => Ok(Some(code)),
            Change::Stopped(signal) => {
                self.stopped(signal, program.group());
                Ok(None)
            }
            Change::None => Ok(None),
        }
    }

    /// The program was stopped: by a terminal, this concerns us too.
    fn stopped(&mut self, signal: Signal, group: Pid) {
        let Some(terminal) = &mut self.terminal else { return };
        let go_on = match signal {
            // It wanted the terminal before it had it.
            Signal::TTIN | Signal::TTOU => terminal.lend(group) || terminal.is_with(group),
            // In a group of ours that no shell looks after, the kernel would have ignored it.
            Signal::TSTP => !terminal.has_shell(),
            // Someone's own doing, and theirs to undo.
            _ => return,
        };
        if !go_on {
            if !terminal.has_shell() {
                return;
            }
            // The shell sees us as its job, so we stop with the program. The stop may come after this call,
            // when another thread is scheduled: what is to follow it waits for the shell's SIGCONT.
            self.suspended = Some(Suspended { lend: terminal.is_lent() || signal != Signal::TSTP });
            terminal.take_back();
            let _ = kill_current_process_group(Signal::STOP);
            return;
        }
        let _ = kill_process_group(group, Signal::CONT);
    }
}
