//! Processes killed with SIGKILL, and a database damaged while its owner is down.

use std::path::Path;
use std::time::{Duration, Instant};

use anemone_chaos::demo::{cluster, http};
use anemone_chaos::relay::Fault;
use anyhow::{Context, Result, ensure};

use super::bench::{ASK, Bench, now_ms, until};

/// Debug builds on a busy machine; optimised ones take under 3 s.
const FAIL_OVER: Duration = Duration::from_secs(6);
const COMES_BACK: Duration = Duration::from_secs(20);

pub(crate) async fn another_hub_takes_over_from_a_killed_leader(bench: &mut Bench) -> Result<()> {
    let before_ms = now_ms();
    let (leader, term) = cluster::leader(&bench.hubs).await?;
    let others: Vec<_> = bench.hubs.iter().filter(|(hub, _)| *hub != leader).cloned().collect();
    let name = format!("hub-{leader}");
    bench.cluster.kill(&name).await?;
    let (killed, killed_ms) = (Instant::now(), now_ms());
    let (new, new_term) = until("another hub leads", COMES_BACK, async || {
        let (hub, now) = cluster::leader(&others).await?;
        ensure!(hub != leader && now > term, "hub {hub} leads in term {now}");
        Ok((hub, now))
    })
    .await?;
    let elected = killed.elapsed().as_secs_f64();
    let nodes: Vec<String> = others.into_iter().map(|(_, url)| url).collect();
    bench.fresh(&nodes, ".+", killed_ms, COMES_BACK).await?;
    let resumed = killed.elapsed();
    bench.cluster.restart(&name).await?;
    let back = bench.fresh(&bench.hub_nodes(), ".+", now_ms(), COMES_BACK).await?;
    let end_ms = now_ms();
    bench.complete("*", before_ms - 5_000..end_ms, COMES_BACK).await?;
    bench.say(&format!(
        "leader {leader} of term {term} killed: hub {new} leads in term {new_term} after {elected:.2} s, samples polled since are at both others after {:.2} s; started again it has new samples after {back:.2} s",
        resumed.as_secs_f64()
    ));
    ensure!(resumed < FAIL_OVER, "samples were applied again only after {resumed:?}");
    Ok(())
}

/// While it is cut off, so that its spool is the only place where its samples are.
pub(crate) async fn a_killed_agent_comes_back_with_what_it_had_flushed(bench: &mut Bench) -> Result<()> {
    let edge = bench.agents_of("nyc1");
    bench.cluster.set_links("nyc1", Fault { cut: true, ..Fault::default() })?;
    let cut_ms = now_ms();
    bench.fresh(&edge, "nyc1", cut_ms + 5_000, COMES_BACK).await?;
    bench.cluster.kill("agent-nyc1-n1").await?;
    bench.excuse("nyc1");
    bench.cluster.restart("agent-nyc1-n1").await?;
    let back = bench.fresh(&edge, "nyc1", now_ms(), COMES_BACK).await?;
    let back_ms = now_ms();
    bench.complete_at(&edge, "pop:nyc1", bench.from_ms..back_ms, COMES_BACK).await.context("its own store")?;
    bench.cluster.set_links("nyc1", Fault::default())?;
    let healed = Instant::now();
    bench.fresh(&bench.hub_nodes(), "nyc1", back_ms, COMES_BACK).await?;
    bench.complete("pop:nyc1", cut_ms..back_ms, COMES_BACK).await?;
    bench.say(&format!(
        "agent n1 cut off and killed: started again it answers with new samples after {back:.2} s and has all it had flushed; the hubs have it {:.2} s after the heal",
        healed.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Samples that the agents' batches brought, as each hub has applied them.
async fn applied(bench: &Bench) -> Result<Vec<u64>> {
    let mut applied = Vec::new();
    for (_, url) in &bench.hubs {
        let answer = http::get(format!("{url}/api/v1/agents"), ASK).await?;
        let rows = answer["data"].as_array().with_context(|| format!("{url}: {answer}"))?;
        applied.push(rows.iter().filter_map(|agent| agent["samples"].as_u64()).sum());
    }
    Ok(applied)
}

pub(crate) async fn three_killed_hubs_come_back_with_everything(bench: &mut Bench) -> Result<()> {
    let before = applied(bench).await?;
    let acknowledged = before.iter().copied().min().context("there are hubs")?;
    ensure!(acknowledged > 0, "nothing is applied: {before:?}");
    for hub in 1..=3 {
        bench.cluster.kill(&format!("hub-{hub}")).await?;
    }
    let killed_ms = now_ms();
    for hub in 1..=3 {
        bench.cluster.restart(&format!("hub-{hub}")).await?;
    }
    let restarted = Instant::now();
    bench.fresh(&bench.hub_nodes(), ".+", now_ms(), COMES_BACK).await?;
    let fresh = restarted.elapsed().as_secs_f64();
    let after = applied(bench).await?;
    ensure!(after.iter().all(|samples| *samples >= acknowledged), "{before:?} samples were applied before, {after:?} are after");
    bench.complete("*", killed_ms - 10_000..now_ms(), COMES_BACK).await?;
    bench.say(&format!("three hubs killed: new samples at all of them {fresh:.2} s after their start, nothing is lost"));
    Ok(())
}

/// Overwrites every file below a folder with garbage of the same length; how many there were.
fn overwrite(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files += overwrite(&path)?;
        } else {
            let length = usize::try_from(std::fs::metadata(&path)?.len())?;
            let garbage: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(167) >> 3) as u8 ^ 0xA5).collect();
            std::fs::write(&path, garbage).with_context(|| format!("damaging {}", path.display()))?;
            files += 1;
        }
    }
    Ok(files)
}

pub(crate) async fn a_damaged_database_is_set_aside(bench: &mut Bench) -> Result<()> {
    let before_ms = now_ms();
    bench.cluster.kill("agent-ams1-a1").await?;
    bench.excuse("ams1");
    let folder = bench.cluster.plan.dir.join("agent-ams1-a1").join("local");
    let files = overwrite(&folder)?;
    ensure!(files > 0, "there is nothing to damage in {}", folder.display());
    bench.cluster.restart("agent-ams1-a1").await?;
    let (.., url) = bench.agents.iter().find(|(_, name, _)| *name == "a1").context("there is an agent a1")?.clone();
    let at_edge = bench.fresh(std::slice::from_ref(&url), "ams1", now_ms(), COMES_BACK).await?;
    let status = http::get(format!("{url}/api/v1/status/agent"), ASK).await?;
    let kept = status["local"]["set_aside"][0].as_str().with_context(|| format!("nothing was set aside: {}", status["local"]))?;
    ensure!(Path::new(kept).is_dir() && Path::new(kept) != folder, "{kept} is not what was set aside");
    bench.fresh(&bench.hub_nodes(), "ams1", now_ms(), COMES_BACK).await?;
    bench.complete("pop:ams1", before_ms - 10_000..now_ms(), COMES_BACK).await?;
    bench.say(&format!(
        "{files} files of a1's database overwritten: it was set aside, new samples after {at_edge:.2} s, the hubs miss nothing"
    ));
    Ok(())
}
