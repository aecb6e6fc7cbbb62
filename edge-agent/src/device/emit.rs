//! Values to samples: conversion, marks and registration.

use anemone_model::{CounterWidth, MetricKind, Name, Sample, SeriesDef, Value};

use super::SampleSink;
use super::inventory::{Slot, UNREGISTERED};
use crate::collector::snmp::ber::ValueView;
use crate::profiles::Source;

/// The samples of a round as they are collected.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) taken: Vec<(u32, Sample)>,
    /// Samples whose series the sink did not register.
    pub(super) refused: u64,
    /// Values that do not fit their metric.
    pub(super) bad: u64,
}

/// Whose samples they are.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) sink: &'a dyn SampleSink,
    pub(super) pop: &'a Name,
    pub(super) device: &'a Name,
}

/// A metric and the further labels of one of its series.
#[derive(Clone, Copy)]
pub(super) struct Named<'a, L> {
    pub(super) metric: &'a str,
    pub(super) kind: MetricKind,
    pub(super) width: CounterWidth,
    pub(super) labels: L,
}

impl Samples {
    /// A value as the device gave it.
    pub(super) fn measured<'a, L: IntoIterator<Item = (&'a str, &'a str)>>(
        &mut self,
        origin: Origin<'a>,
        slot: &mut Slot,
        series: Named<'a, L>,
        source: &Source,
        value: ValueView<'_>,
        ts_ms: i64,
    ) {
        let value = match series.kind {
            MetricKind::Gauge => value.as_f64().map(|v| Value::F64(v * source.scale.unwrap_or(1.0))),
            MetricKind::Counter | MetricKind::State | MetricKind::Info => value.as_u64().map(Value::U64),
        };
        let Some(value) = value else {
            self.bad += 1;
            return;
        };
        if register(origin, &mut slot.series, series) {
            self.taken.push((slot.series, Sample { ts_ms, value, discontinuity: slot.take_mark() }));
        } else {
            self.refused += 1;
        }
    }

    /// A value the agent made.
    pub(super) fn own<'a, L: IntoIterator<Item = (&'a str, &'a str)>>(
        &mut self,
        origin: Origin<'a>,
        place: &mut u32,
        series: Named<'a, L>,
        value: Value,
        ts_ms: i64,
    ) {
        if register(origin, place, series) {
            self.taken.push((*place, Sample::new(ts_ms, value)));
        } else {
            self.refused += 1;
        }
    }
}

/// Sees to it that `place` holds a ref.
fn register<'a, L: IntoIterator<Item = (&'a str, &'a str)>>(origin: Origin<'a>, place: &mut u32, series: Named<'a, L>) -> bool {
    if *place != UNREGISTERED {
        return true;
    }
    let labels = [("pop", origin.pop.as_str()), ("device", origin.device.as_str())].into_iter().chain(series.labels);
    let definition = SeriesDef::new(series.metric, labels, series.kind, series.width);
    match definition.map(|definition| origin.sink.register(definition)) {
        Ok(Ok(series)) => {
            *place = series;
            true
        }
        _ => false,
    }
}
