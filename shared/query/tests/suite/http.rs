//! The HTTP API, request by request, with the exact bodies.

use std::sync::Arc;
use std::time::Duration;

use crate::support::Memory;
use anemone_model::{CounterWidth, MetricKind, Sample, SeriesDef, Value};
use anemone_query::{AnnotatedSource, EngineOptions, RouterOptions, StoreSource, prometheus_router};
use anemone_store::matcher::Matcher;
use anemone_store::{MemoryBlocks, Store, StoreOptions};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use tower::ServiceExt;

const T: i64 = 1_700_000_000_000;

fn options() -> RouterOptions {
    RouterOptions { now_ms: || T, body_max: 4096, ..RouterOptions::default() }
}

/// Three series at [`T`] and ten seconds before.
fn router() -> Router {
    let mut memory = Memory::default();
    for line in [
        "if_in_octets{pop=\"ams1\",device=\"sw1\",if_name=\"eth0\"} u9223372036854775799 u9223372036854775809",
        "if_in_octets{pop=\"nyc1\",device=\"sw2\",if_name=\"Gi1/0/1\"} u0 u50",
        "temperature_celsius{pop=\"nyc1\",device=\"sw2\"} 21.5 Inf",
    ] {
        memory.add(line, 10_000);
    }
    for series in &mut memory.series {
        series.samples.iter_mut().for_each(|s| s.ts_ms += T - 10_000);
        if series.labels.metric() == "if_in_octets" {
            (series.kind, series.width) = (MetricKind::Counter, CounterWidth::Bits64);
        }
    }
    prometheus_router(Arc::new(memory), options())
}

async fn send(router: Router, request: Request<Body>) -> (u16, String) {
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    let status = response.status().as_u16();
    (status, String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap())
}

async fn get(path: &str) -> (u16, String) {
    send(router(), Request::get(path).body(Body::empty()).unwrap()).await
}

fn form(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.into()).unwrap()
}

async fn check(cases: &[(&str, u16, &str)]) {
    for (path, status, body) in cases {
        assert_eq!(get(path).await, (*status, (*body).to_owned()), "{path}");
    }
}

#[tokio::test]
async fn queries_answer_in_prometheus_shapes() {
    check(&[
        ("/api/v1/query?query=1%2B1&time=4", 200, r#"{"status":"success","data":{"resultType":"scalar","result":[4,"2"]}}"#),
        ("/api/v1/query?query=%22x%22&time=4.5", 200, r#"{"status":"success","data":{"resultType":"string","result":[4.500,"x"]}}"#),
        (
            "/api/v1/query?query=if_in_octets{device=%22sw1%22}&time=1700000000.123",
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"if_in_octets","device":"sw1","if_name":"eth0","pop":"ams1"},"value":[1700000000.123,"9223372036854775809"]}]}}"#,
        ),
        // Without a time it is now.
        (
            "/api/v1/query?query=temperature_celsius",
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"temperature_celsius","device":"sw2","pop":"nyc1"},"value":[1700000000,"+Inf"]}]}}"#,
        ),
        (
            "/api/v1/query?query=if_in_octets{device=%22sw2%22}[1m]&time=2023-11-14T22:13:20Z",
            200,
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"if_in_octets","device":"sw2","if_name":"Gi1/0/1","pop":"nyc1"},"values":[[1699999990,"0"],[1700000000,"50"]]}]}}"#,
        ),
        (
            "/api/v1/query_range?query=sum(increase(if_in_octets{device=%22sw2%22}[10001ms]))&start=1699999995&end=1700000000&step=5s",
            200,
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1700000000,"50"]]}]}}"#,
        ),
        (
            "/api/v1/query_range?query=1&start=0&end=1&step=0.5&timezone=utc",
            200,
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0,"1"],[0.500,"1"],[1,"1"]]}]}}"#,
        ),
        ("/api/v1/query?query=nothing", 200, r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
        (
            "/api/v1/query?query=count%20by(device)(if_in_octets)&limit=1",
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"device":"sw1"},"value":[1700000000,"1"]}]},"warnings":["results truncated due to limit"]}"#,
        ),
        (
            "/api/v1/query?query=rate(temperature_celsius[1m])",
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"device":"sw2","pop":"nyc1"},"value":[1700000000,"+Inf"]}]},"infos":["PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"temperature_celsius\""]}"#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn bad_requests_say_what_and_where() {
    check(&[
        (
            "/api/v1/query?query=sum(foo%20bar)",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:9: parse error: unexpected identifier \"bar\""}"#,
        ),
        ("/api/v1/query", 400, r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": must be given"}"#),
        (
            "/api/v1/query?query=1&time=noon",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"time\": cannot parse \"noon\" to a valid timestamp"}"#,
        ),
        (
            "/api/v1/query_range?query=1&start=0&end=10&step=0",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"}"#,
        ),
        (
            "/api/v1/query_range?query=1&start=0&end=10&step=-5",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"}"#,
        ),
        (
            "/api/v1/query_range?query=1&start=0&end=10&step=NaN",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": cannot parse \"NaN\" to a valid duration"}"#,
        ),
        (
            "/api/v1/query_range?query=1&start=-2e15&end=2e15&step=1",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"}"#,
        ),
        (
            "/api/v1/query_range?query=1&start=10&end=0&step=1",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"end\": end timestamp must not be before start time"}"#,
        ),
        (
            "/api/v1/query_range?query=foo[5m]&start=0&end=10&step=1",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector"}"#,
        ),
        (
            "/api/v1/query?query=deriv(foo[5m])",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"function deriv is not supported by this version"}"#,
        ),
        (
            "/api/v1/query?query=topk(NaN,if_in_octets)",
            422,
            r#"{"status":"error","errorType":"execution","error":"Parameter value is NaN"}"#,
        ),
        (
            "/api/v1/query?query=1&timeout=0",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"timeout\": must be a duration of more than zero"}"#,
        ),
        (
            "/api/v1/query?query=1&limit=-1",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"limit\": \"-1\" is not a number of 0 or more"}"#,
        ),
        ("/api/v1/series", 400, r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"match[]\": no match[] parameter provided"}"#),
        (
            "/api/v1/series?match[]={pop=~%22.*%22}",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"match[]\": parse error: vector selector must contain at least one non-empty matcher"}"#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_query_out_of_time_is_503() {
    let mut options = options();
    options.engine.wall_time = Duration::ZERO;
    for path in ["/api/v1/query?query=1", "/api/v1/query_range?query=up&start=0&end=1&step=1"] {
        let (status, body) =
            send(prometheus_router(Arc::new(Memory::default()), options.clone()), Request::get(path).body(Body::empty()).unwrap()).await;
        let expected = r#"{"status":"error","errorType":"timeout","error":"query timed out after 0 s, the limit of wall time per query"}"#;
        assert_eq!((status, body.as_str()), (503, expected), "{path}");
    }
}

#[tokio::test]
async fn series_and_labels_are_listed() {
    check(&[
        (
            "/api/v1/series?match[]=temperature_celsius&match[]={device=%22sw1%22}",
            200,
            r#"{"status":"success","data":[{"__name__":"if_in_octets","device":"sw1","if_name":"eth0","pop":"ams1"},{"__name__":"temperature_celsius","device":"sw2","pop":"nyc1"}]}"#,
        ),
        ("/api/v1/series?match[]=if_in_octets&start=0&end=100", 200, r#"{"status":"success","data":[]}"#),
        ("/api/v1/labels", 200, r#"{"status":"success","data":["__name__","device","if_name","pop"]}"#),
        ("/api/v1/labels?match[]=temperature_celsius", 200, r#"{"status":"success","data":["__name__","device","pop"]}"#),
        ("/api/v1/label/pop/values", 200, r#"{"status":"success","data":["ams1","nyc1"]}"#),
        ("/api/v1/label/pop/values?limit=1", 200, r#"{"status":"success","data":["ams1"],"warnings":["results truncated due to limit"]}"#),
        ("/api/v1/label/no_such_label/values", 200, r#"{"status":"success","data":[]}"#),
        (
            "/api/v1/label/__name__/values?start=-292273086-05-16T16:47:06Z&end=292277025-08-18T07:12:54.999999999Z",
            200,
            r#"{"status":"success","data":["if_in_octets","temperature_celsius"]}"#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn forms_are_read_like_urls() {
    let body = "query=if_in_octets%7Bdevice%3D%22sw2%22%7D&start=1700000000&end=1700000000&step=15";
    let expected = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"if_in_octets","device":"sw2","if_name":"Gi1/0/1","pop":"nyc1"},"values":[[1700000000,"50"]]}]}}"#;
    assert_eq!(send(router(), form("/api/v1/query_range", body)).await, (200, expected.to_owned()));
    // The form comes before the URL.
    let (_, answer) = send(router(), form("/api/v1/query?query=2&time=1", "query=1")).await;
    assert_eq!(answer, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#);
    let (_, listed) = send(router(), form("/api/v1/labels", "match%5B%5D=temperature_celsius")).await;
    assert_eq!(listed, r#"{"status":"success","data":["__name__","device","pop"]}"#);
    let (status, refused) = send(router(), form("/api/v1/query", "query=".to_owned() + &"1".repeat(5000))).await;
    assert_eq!(status, 413);
    assert!(refused.starts_with(r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"form\": "#), "{refused}");
    let plain = Request::post("/api/v1/query").header(header::CONTENT_TYPE, "text/plain").body(Body::from("query=1")).unwrap();
    assert_eq!(send(router(), plain).await.0, 415);
}

#[tokio::test]
async fn clients_learn_version_and_metadata() {
    let (_, info) = get("/api/v1/status/buildinfo").await;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert!(info["data"]["version"].as_str().unwrap().starts_with("3."));
    assert!(info["data"].get("features").is_none());
    let (_, one) = get("/api/v1/metadata?metric=if_in_octets").await;
    assert_eq!(
        one,
        r#"{"status":"success","data":{"if_in_octets":[{"type":"counter","help":"Octets received on the interface, framing included.","unit":"bytes"}]}}"#
    );
    let all: serde_json::Value = serde_json::from_str(&get("/api/v1/metadata").await.1).unwrap();
    assert_eq!(all["data"].as_object().unwrap().len(), anemone_model::Schema::built_in().metrics().len());
    assert_eq!(all["data"]["if_oper_status"][0]["type"], "gauge");
}

#[tokio::test]
async fn an_annotation_reaches_every_answer_it_concerns() {
    let annotate = |selectors: &[Vec<Matcher>], _: i64, _: i64| {
        let concerned = |s: &Vec<Matcher>| s.iter().filter(|m| m.name == "pop").all(|m| m.matches("ams1"));
        let all = selectors.is_empty() || selectors.iter().any(concerned);
        if all { vec!["PoP ams1 is dark since 2023-11-14T22:13:20Z".to_owned()] } else { Vec::new() }
    };
    let source = || Arc::new(AnnotatedSource::new(Arc::new(Memory::default()), Arc::new(annotate)));
    let warning = r#","warnings":["PoP ams1 is dark since 2023-11-14T22:13:20Z"]}"#;
    for (path, concerned) in [
        ("/api/v1/query?query=nothing", true),
        ("/api/v1/query?query=a%2Bb", true),
        ("/api/v1/query?query=1", false),
        ("/api/v1/query?query=nothing{pop=%22nyc1%22}", false),
        ("/api/v1/query_range?query=rate(x[5m])&start=0&end=1&step=1", true),
        ("/api/v1/series?match[]=nothing", true),
        ("/api/v1/series?match[]=nothing{pop=%22nyc1%22}", false),
        ("/api/v1/labels", true),
        ("/api/v1/label/pop/values", true),
    ] {
        let (status, body) = send(prometheus_router(source(), options()), Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!((status, body.ends_with(warning)), (200, concerned), "{path}: {body}");
    }
}

#[tokio::test]
async fn the_store_answers_the_same_way() {
    let store = Store::open(Arc::new(MemoryBlocks::default()), StoreOptions::default()).unwrap();
    for (device, value) in [("sw1", (1_u64 << 63) + 1), ("sw2", 7)] {
        let def = SeriesDef::new("if_in_octets", [("pop", "ams1"), ("device", device)], MetricKind::Counter, CounterWidth::Bits64).unwrap();
        let series = store.register(&def).unwrap();
        store.append(series, Sample::new(T - 1000, Value::U64(value)));
        store.append(series, Sample::new(T, Value::U64(value + 3)));
    }
    let source = Arc::new(StoreSource::new(Arc::new(store), 2));
    let mut options = options();
    options.engine = EngineOptions { limits: anemone_query::Limits { series: 2, samples: 4 }, ..EngineOptions::default() };
    let router = prometheus_router(source, options);
    for (path, body) in [
        (
            "/api/v1/query?query=max(if_in_octets)",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000000,"9223372036854775812"]}]}}"#,
        ),
        (
            "/api/v1/query?query=irate(if_in_octets{device=%22sw1%22}[5s])",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"device":"sw1","pop":"ams1"},"value":[1700000000,"3"]}]}}"#,
        ),
        ("/api/v1/label/device/values", r#"{"status":"success","data":["sw1","sw2"]}"#),
        ("/api/v1/label/device/values?match[]={device!=%22sw1%22,pop=%22ams1%22}", r#"{"status":"success","data":["sw2"]}"#),
        (
            "/api/v1/series?match[]={device=%22sw2%22}",
            r#"{"status":"success","data":[{"__name__":"if_in_octets","device":"sw2","pop":"ams1"}]}"#,
        ),
        // Three names, where the limit is two entries.
        (
            "/api/v1/labels",
            r#"{"status":"error","errorType":"execution","error":"query needs more than 2 series, the limit per query; select fewer series, a shorter range or a larger step"}"#,
        ),
        (
            "/api/v1/query?query=if_in_octets%2Bon(device)if_in_octets[5s]",
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": parse error: binary expression must contain only scalar and instant vector types"}"#,
        ),
        (
            "/api/v1/query?query=sum(rate(if_in_octets[5s]))%2Bsum(rate(if_in_octets[5s]))",
            r#"{"status":"error","errorType":"execution","error":"query needs more than 4 samples, the limit per query; select fewer series, a shorter range or a larger step"}"#,
        ),
    ] {
        let (_, answer) = send(router.clone(), Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer, body, "{path}");
    }
}
