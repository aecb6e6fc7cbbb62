//! The actor that owns one device: starts its task, restarts it when it fails, and answers for it.
//!
//! Polling runs in a task of its own on the actor's arbiter. A panic in there ends that task and nothing else: the actor sees it,
//! counts it, and builds the device anew from its factory after a delay that grows. A restart keeps what is known of the device
//! (sysUpTime, limits), so that a reboot meanwhile is still noticed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture, WrapFuture, fut::ActorFutureExt};
use anemone_model::AssignedDevice;
use tokio_util::sync::CancellationToken;

use super::logic::{DeviceLogic, LogicOptions, Target};
use super::runner::{Clock, Report, SharedReport, run_device};
use super::supervisor::{ExitReason, Supervisor};
use super::{DeviceMemory, FailureReason, SampleSink};
use crate::collector::snmp::engine::Engine;
use crate::profiles::Profile;

/// Messages a device actor's mailbox holds. Its handlers only take notes, so it is never full for long.
pub const MAILBOX: usize = 8;

/// What all devices of an arbiter share.
#[derive(Clone)]
pub struct DeviceParts {
    /// The arbiter's engine.
    pub engine: Engine,
    /// Where samples go.
    pub sink: Arc<dyn SampleSink>,
    /// Times and limits.
    pub options: LogicOptions,
    /// The arbiter's clock.
    pub clock: Clock,
}

/// Stops polling; resolved when the device's task has ended. The actor then stops too.
#[derive(Debug)]
pub struct Stop;

impl Message for Stop {
    type Result = ();
}

/// The device was edited, or is to be asked by another profile: polling starts anew with what is known of it.
pub struct UpdateDevice {
    /// As it is now.
    pub assigned: AssignedDevice,
    /// What to ask it.
    pub profile: Arc<Profile>,
}

impl Message for UpdateDevice {
    type Result = ();
}

/// Asks for the device's health and memory as of its last round.
#[derive(Debug)]
pub struct HealthQuery;

impl Message for HealthQuery {
    type Result = DeviceReport;
}

/// Answer to [`HealthQuery`].
#[derive(Debug, Clone)]
pub struct DeviceReport {
    /// Assignment epoch being polled.
    pub epoch: u64,
    /// What the device's task last reported.
    pub report: Report,
    /// Why its task last ended, if it did.
    pub last_exit: Option<ExitReason>,
}

/// Owner of one device.
pub struct DeviceActor {
    assigned: AssignedDevice,
    profile: Arc<Profile>,
    parts: Arc<DeviceParts>,
    report: SharedReport,
    supervisor: Supervisor,
    stop: CancellationToken,
    ended: CancellationToken,
    /// Counts launches, so that the end of an earlier task is not taken for that of the present one.
    launch: u64,
    running: bool,
    stopping: bool,
}

impl DeviceActor {
    /// The actor of a device that was just assigned; `memory` is what is known of it from earlier.
    #[must_use]
    pub fn new(assigned: AssignedDevice, profile: Arc<Profile>, parts: Arc<DeviceParts>, memory: DeviceMemory) -> Self {
        let report = Arc::new(Mutex::new(Report { memory, ..Report::default() }));
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        Self {
            assigned,
            profile,
            parts,
            report,
            supervisor: Supervisor::default(),
            stop,
            ended,
            launch: 0,
            running: false,
            stopping: false,
        }
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The factory: a fresh logic with what is known of the device.
    fn build(&self) -> DeviceLogic {
        let device = &self.assigned.device;
        let target = Target {
            pop: device.pop.clone(),
            device: device.name.clone(),
            community: device.community.clone(),
            interval: device.interval.duration(),
        };
        DeviceLogic::new(target, Arc::clone(&self.profile), self.parts.options, self.report().memory, self.parts.clock.now())
    }

    fn launch(&mut self, ctx: &mut Context<Self>) {
        self.launch += 1;
        self.running = true;
        self.stop = CancellationToken::new();
        self.supervisor.started(self.parts.clock.now().elapsed);
        let parts = &self.parts;
        let (engine, sink, stop) = (parts.engine.clone(), Arc::clone(&parts.sink), self.stop.clone());
        let address = self.assigned.device.address.clone();
        let task = tokio::spawn(run_device(self.build(), parts.clock, address, engine, sink, Arc::clone(&self.report), stop));
        let launch = self.launch;
        ctx.spawn(task.into_actor(self).map(move |outcome, actor, ctx| {
            let reason = match outcome {
                Ok(logic) => {
                    actor.report().memory = logic.memory(actor.parts.clock.now());
                    ExitReason::Stopped
                }
                Err(error) if error.is_cancelled() => ExitReason::Cancelled,
                Err(error) => ExitReason::Panicked(panic_text(error)),
            };
            if actor.launch == launch {
                actor.exited(reason, ctx);
            }
        }));
    }

    fn exited(&mut self, reason: ExitReason, ctx: &mut Context<Self>) {
        self.running = false;
        let now = self.parts.clock.now();
        if let ExitReason::Panicked(text) = &reason {
            tracing::error!(device = %self.assigned.device.name, panic = %text, "device task failed, it will be restarted");
            self.report().health.last_failure = Some((now.wall_ms, FailureReason::Panicked(text.clone())));
        }
        let delay = self.supervisor.exited(now.elapsed, reason, rand::random());
        if self.stopping {
            return ctx.stop();
        }
        // An update stops the task to start it again at once.
        let delay = delay.unwrap_or(Duration::ZERO);
        self.report().health.restarts = self.supervisor.restarts();
        let launch = self.launch;
        ctx.run_later(delay, move |actor, ctx| {
            if actor.launch == launch && !actor.stopping {
                actor.launch(ctx);
            }
        });
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "unknown".to_owned() };
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}

impl Actor for DeviceActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.launch(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stop.cancel();
        self.ended.cancel();
    }
}

impl Drop for DeviceActor {
    fn drop(&mut self) {
        self.stop.cancel();
        self.ended.cancel();
    }
}

impl Handler<Stop> for DeviceActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        self.stop.cancel();
        if !self.running {
            ctx.stop();
        }
        let ended = self.ended.clone();
        Box::pin(async move { ended.cancelled().await })
    }
}

impl Handler<UpdateDevice> for DeviceActor {
    type Result = ();

    fn handle(&mut self, update: UpdateDevice, _: &mut Self::Context) {
        (self.assigned, self.profile) = (update.assigned, update.profile);
        self.stop.cancel();
    }
}

impl Handler<HealthQuery> for DeviceActor {
    type Result = MessageResult<HealthQuery>;

    fn handle(&mut self, _: HealthQuery, _: &mut Self::Context) -> Self::Result {
        let report = self.report().clone();
        MessageResult(DeviceReport { epoch: self.assigned.epoch, report, last_exit: self.supervisor.last_exit().cloned() })
    }
}
