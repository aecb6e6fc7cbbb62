//! Profile files: their shape, and the checks that make a [`Profile`] of one.

use std::collections::HashSet;
use std::time::Duration;

use anemone_model::{CounterWidth, MetricKind, Schema};
use csnmp::ObjectIdentifier;
use serde::Deserialize;

use super::{COLUMNS_MAX, DEVICE_INFO, Fact, Object, Profile, ProfileError, Role, RowLabel, RowMetric, Scalar, Source, Table};
use crate::collector::snmp::oid;

/// Labels that every series has; a profile does not name them.
const DEVICE_LABELS: [&str; 2] = ["pop", "device"];
/// Metrics that the agent itself makes; a profile must not.
const OWN_METRICS: [&str; 4] = ["device_up", "device_uptime_seconds", "device_poll_duration_seconds", DEVICE_INFO];
/// Most rows a table may ask to be taken.
const ROWS_MAX: usize = 65_536;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    name: String,
    description: String,
    #[serde(default)]
    watch: Vec<ObjectFile>,
    #[serde(default)]
    fact: Vec<FactFile>,
    #[serde(default)]
    scalar: Vec<ScalarFile>,
    #[serde(default)]
    table: Vec<TableFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectFile {
    object: String,
    oid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FactFile {
    label: String,
    object: String,
    oid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScalarFile {
    metric: String,
    source: SourceFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableFile {
    name: String,
    index: String,
    #[serde(default)]
    interval_seconds: Option<u64>,
    rows_max: usize,
    #[serde(default)]
    discontinuity: Option<ObjectFile>,
    label: Vec<LabelFile>,
    metric: Vec<MetricFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelFile {
    name: String,
    sources: Vec<ObjectFile>,
    default: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricFile {
    metric: String,
    sources: Vec<SourceFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFile {
    object: String,
    oid: String,
    #[serde(default)]
    width: Option<u8>,
    #[serde(default)]
    scale: Option<f64>,
    #[serde(default)]
    zero_is_absent: bool,
}

/// Reads and checks one profile.
pub(super) fn parse(file: &str, text: &str) -> Result<Profile, ProfileError> {
    let parsed: ProfileFile =
        toml::from_str(text).map_err(|source| ProfileError::Parse { file: file.to_owned(), source: Box::new(source) })?;
    let check = Check { file, place: "profile".to_owned() };
    check.that(!parsed.name.is_empty(), || "the name is empty".to_owned())?;
    let info = Schema::built_in().metric(DEVICE_INFO);
    let mut facts = Vec::with_capacity(parsed.fact.len());
    for fact in parsed.fact {
        let check = check.at(format!("fact {:?}", fact.label));
        check.that(info.is_some_and(|metric| metric.labels.contains(&fact.label)), || {
            format!("{DEVICE_INFO} has no such label in the schema")
        })?;
        facts.push(Fact { object: check.object(fact.object, &fact.oid)?, label: fact.label });
    }
    let watches =
        parsed.watch.into_iter().map(|o| check.at(format!("watch {}", o.object)).object(o.object, &o.oid)).collect::<Result<_, _>>()?;
    let mut metrics = HashSet::new();
    let scalars = parsed.scalar.into_iter().map(|scalar| check.scalar(scalar, &mut metrics)).collect::<Result<_, _>>()?;
    let tables = parsed.table.into_iter().map(|table| check.table(table, &mut metrics)).collect::<Result<_, _>>()?;
    Ok(Profile { name: parsed.name, description: parsed.description, watches, facts, scalars, tables })
}

/// Columns as they are found.
#[derive(Default)]
struct Columns {
    columns: Vec<Object>,
    roles: Vec<Role>,
}

impl Columns {
    fn add(&mut self, check: &Check<'_>, name: String, oid: &str, role: Role) -> Result<usize, ProfileError> {
        let object = check.object(name, oid)?;
        let overlap = self.columns.iter().any(|c| c.oid.is_prefix_of_or_equal(&object.oid) || object.oid.is_prefix_of(&c.oid));
        check.that(!overlap, || format!("{} overlaps another column of the table", object.name))?;
        check.that(self.columns.len() < COLUMNS_MAX, || format!("more than {COLUMNS_MAX} columns"))?;
        self.columns.push(object);
        self.roles.push(role);
        Ok(self.columns.len() - 1)
    }
}

/// Where in which file a check is made.
struct Check<'a> {
    file: &'a str,
    place: String,
}

impl Check<'_> {
    fn at(&self, place: String) -> Check<'_> {
        Check { file: self.file, place: if self.place == "profile" { place } else { format!("{}, {place}", self.place) } }
    }

    fn that(&self, holds: bool, problem: impl FnOnce() -> String) -> Result<(), ProfileError> {
        if holds {
            Ok(())
        } else {
            Err(ProfileError::Invalid { file: self.file.to_owned(), place: self.place.clone(), problem: problem() })
        }
    }

    fn object(&self, name: String, text: &str) -> Result<Object, ProfileError> {
        let parsed = text.parse::<ObjectIdentifier>().ok().filter(|oid| oid.len() > 2 && oid.get(0).is_some_and(|top| top <= 2));
        self.that(parsed.is_some(), || format!("{text:?} of {name} is no object identifier of the form 1.3.6.1..."))?;
        let oid = parsed.unwrap_or_default();
        Ok(Object { name, octets: oid::encode(&oid).into(), oid })
    }

    fn kind(&self, metric: &str, labels: &[&str], seen: &mut HashSet<String>) -> Result<MetricKind, ProfileError> {
        let known = Schema::built_in().metric(metric);
        let nearest =
            || Schema::built_in().metrics().iter().max_by(|a, b| strsim::jaro(&a.name, metric).total_cmp(&strsim::jaro(&b.name, metric)));
        let Some(known) = known else {
            self.that(false, || format!("the schema has no such metric; did you mean {:?}?", nearest().map_or("", |m| &m.name)))?;
            return Ok(MetricKind::Gauge);
        };
        self.that(!OWN_METRICS.contains(&metric), || "the agent makes this metric itself".to_owned())?;
        let mut given: Vec<&str> = DEVICE_LABELS.iter().chain(labels).copied().collect();
        let mut due: Vec<&str> = known.labels.iter().map(String::as_str).collect();
        given.sort_unstable();
        due.sort_unstable();
        self.that(given == due, || format!("has the labels {given:?} here and {due:?} in the schema"))?;
        self.that(seen.insert(metric.to_owned()), || "the metric is given twice".to_owned())?;
        Ok(known.kind)
    }

    fn source(&self, kind: MetricKind, source: &SourceFile) -> Result<Source, ProfileError> {
        let counter = kind == MetricKind::Counter;
        let width = source.width.map_or(Some(CounterWidth::Unknown), CounterWidth::from_bits);
        let described = matches!(width, Some(CounterWidth::Bits32 | CounterWidth::Bits64));
        self.that(described == counter && (counter || source.width.is_none()), || {
            format!("{} needs `width = 32` or `width = 64` if it is a counter, and none otherwise; this is a {kind:?}", source.object)
        })?;
        self.that(source.scale.is_none() || kind == MetricKind::Gauge, || {
            format!("{}: only gauges are scaled, others stay exact", source.object)
        })?;
        self.that(source.scale.is_none_or(|s| s.is_finite() && s != 0.0), || {
            format!("{}: a scale must be finite and not 0", source.object)
        })?;
        Ok(Source { width: width.unwrap_or_default(), scale: source.scale, zero_is_absent: source.zero_is_absent })
    }

    fn scalar(&self, scalar: ScalarFile, seen: &mut HashSet<String>) -> Result<Scalar, ProfileError> {
        let check = self.at(format!("scalar {}", scalar.metric));
        let kind = check.kind(&scalar.metric, &[], seen)?;
        let source = check.source(kind, &scalar.source)?;
        Ok(Scalar { metric: scalar.metric.into(), kind, source, object: check.object(scalar.source.object, &scalar.source.oid)? })
    }

    fn table(&self, table: TableFile, seen: &mut HashSet<String>) -> Result<Table, ProfileError> {
        let check = self.at(format!("table {:?}", table.name));
        check.that((1..=ROWS_MAX).contains(&table.rows_max), || format!("rows_max must be from 1 to {ROWS_MAX}"))?;
        check.that(table.interval_seconds.is_none_or(|s| (1..=3600).contains(&s)), || {
            "interval_seconds must be from 1 to 3600".to_owned()
        })?;
        check.that(!table.label.is_empty(), || "without a label its rows cannot be told apart".to_owned())?;
        let mut places = Columns::default();
        let mut labels = Vec::with_capacity(table.label.len());
        for (at, label) in table.label.into_iter().enumerate() {
            let check = check.at(format!("label {:?}", label.name));
            for (rank, source) in label.sources.into_iter().enumerate() {
                places.add(&check, source.object, &source.oid, Role::Label { label: at, rank })?;
            }
            check.that(label.default.contains("{index}"), || "the default must contain {index}".to_owned())?;
            labels.push(RowLabel { name: label.name.into(), default: label.default });
        }
        // Before the metrics, so that it is read before them within a row.
        let discontinuity = table.discontinuity.map(|o| places.add(&check, o.object, &o.oid, Role::Discontinuity)).transpose()?;
        let names: Vec<&str> = labels.iter().map(|label| &*label.name).collect();
        let mut metrics = Vec::with_capacity(table.metric.len());
        for (at, metric) in table.metric.into_iter().enumerate() {
            let check = check.at(format!("metric {}", metric.metric));
            let kind = check.kind(&metric.metric, &names, seen)?;
            check.that(!metric.sources.is_empty(), || "has no sources".to_owned())?;
            let mut sources = Vec::with_capacity(metric.sources.len());
            for (rank, source) in metric.sources.into_iter().enumerate() {
                let read = check.source(kind, &source)?;
                sources.push((places.add(&check, source.object, &source.oid, Role::Metric { metric: at, rank })?, read));
            }
            metrics.push(RowMetric { metric: metric.metric.into(), kind, sources });
        }
        let Columns { columns, roles } = places;
        let interval = table.interval_seconds.map(Duration::from_secs);
        Ok(Table {
            name: table.name,
            index: table.index,
            interval,
            rows_max: table.rows_max,
            columns,
            roles,
            labels,
            metrics,
            discontinuity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::{GENERIC, Profiles};

    const GOOD: &str = include_str!("../../profiles/interfaces.toml");

    #[test]
    fn the_generic_profile_covers_every_interface_metric_of_the_schema() {
        let profiles = Profiles::built_in().unwrap();
        let profile = profiles.by_name(GENERIC).unwrap();
        let mut given: Vec<&str> = profile.tables[0].metrics.iter().map(|m| &*m.metric).collect();
        let mut due: Vec<&str> =
            Schema::built_in().metrics().iter().filter(|m| m.name.starts_with("if_")).map(|m| m.name.as_str()).collect();
        given.sort_unstable();
        due.sort_unstable();
        assert_eq!(given, due);
        let octets = &profile.tables[0].metrics[0];
        assert_eq!(octets.sources.iter().map(|(_, s)| s.width).collect::<Vec<_>>(), [CounterWidth::Bits64, CounterWidth::Bits32]);
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, expected) in [
            ("rows_max = 8192", "rows_max = 8192\nrowsmax = 1", "unknown field `rowsmax`"),
            ("rows_max = 8192", "rows_max = 0", "profile f.toml, table \"interfaces\": rows_max must be from 1 to 65536"),
            ("rows_max = 8192", "rows_max = 1\ninterval_seconds = 0", "interval_seconds must be from 1 to 3600"),
            ("\"if_in_octets\"", "\"if_in_octet\"", "metric if_in_octet: the schema has no such metric; did you mean \"if_in_octets\"?"),
            ("\"if_out_octets\"", "\"if_in_octets\"", "metric if_in_octets: the metric is given twice"),
            ("\"if_in_octets\"", "\"device_up\"", "metric device_up: the agent makes this metric itself"),
            ("name = \"if_name\"", "name = \"ifname\"", "has the labels [\"device\", \"ifname\", \"pop\"] here"),
            ("31.1.1.1.6\"", "31.1.1.x\"", "is no object identifier"),
            ("31.1.1.1.10\"", "31.1.1.1.6\"", "IF-MIB::ifHCOutOctets overlaps another column"),
            ("31.1.1.1.10\"", "31.1.1.1.6.1\"", "IF-MIB::ifHCOutOctets overlaps another column"),
            ("width = 64", "width = 33", "needs `width = 32` or `width = 64`"),
            (", width = 64", "", "needs `width = 32` or `width = 64`"),
            ("width = 64", "width = 64, scale = 8.0", "only gauges are scaled"),
            ("scale = 1000000.0", "scale = 0.0", "must be finite and not 0"),
            ("if{index}", "if", "the default must contain {index}"),
            ("label = \"sys_descr\"", "label = \"sys_desc\"", "fact \"sys_desc\": device_info has no such label"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let error = parse("f.toml", &text).unwrap_err().to_string();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
        assert!(parse("f.toml", "name = 1").unwrap_err().to_string().contains("line 1, column 8"));
    }

    #[test]
    fn a_directory_replaces_and_adds() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.toml"), GOOD.replacen("of any device", "of ours", 1)).unwrap();
        std::fs::write(directory.path().join("b.toml"), "name = \"empty\"\ndescription = \"nothing\"").unwrap();
        std::fs::write(directory.path().join("notes.txt"), "not a profile").unwrap();
        let profiles = Profiles::load(Some(directory.path())).unwrap();
        assert_eq!(profiles.names().collect::<Vec<_>>(), ["empty", "interfaces"]);
        std::fs::write(directory.path().join("c.toml"), "name = ").unwrap();
        assert!(Profiles::load(Some(directory.path())).unwrap_err().to_string().contains("c.toml"));
        assert!(Profiles::load(Some(&directory.path().join("absent"))).unwrap_err().to_string().contains("cannot read profiles at"));
    }
}
