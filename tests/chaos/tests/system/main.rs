//! The whole system as separate processes: three hubs, three agents in two PoPs, simulated devices, relays in between.
//!
//! One cluster is started and taken through everything that may happen to it, one scenario after the other, each
//! building on what the ones before left behind. At the end all that was stored since the start is compared with the
//! ledger of what the devices answered. Figures are printed; `--nocapture` shows them.

mod bench;
mod cuts;
mod devices;
mod kills;
mod steady;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use bench::{Bench, now_ms};

#[test]
fn the_system_loses_nothing_whatever_is_cut_killed_or_damaged() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(run());
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

async fn run() -> Result<()> {
    let mut bench = Bench::start().await?;
    let outcome = scenarios(&mut bench).await;
    let ended = bench.cluster.all_run();
    let stopped = bench.stop().await;
    if let Err(error) = outcome {
        // A process that ended on its own explains more than what was missed because of it.
        let also = ended.err().map(|why| format!("; besides, {why:#}")).unwrap_or_default();
        return Err(error.context(format!("the logs are in {}{also}", bench.keep().display())));
    }
    ended?;
    ensure!(stopped < Duration::from_secs(5), "stopping everything took {stopped:?}");
    bench.say(&format!("everything is stopped after {:.1} s", stopped.as_secs_f64()));
    Ok(())
}

async fn scenarios(bench: &mut Bench) -> Result<()> {
    steady::every_interface_is_counted(bench).await.context("after the start")?;
    steady::a_large_counter_is_exact_everywhere(bench).await.context("large counter")?;
    cuts::a_pop_that_is_cut_off_goes_on_and_catches_up(bench).await.context("cut")?;
    devices::faulty_devices_harm_only_themselves(bench).await.context("faulty devices")?;
    steady::counters_wrap_without_a_spike(bench).await.context("wrap")?;
    kills::another_hub_takes_over_from_a_killed_leader(bench).await.context("killed leader")?;
    kills::a_killed_agent_comes_back_with_what_it_had_flushed(bench).await.context("killed agent")?;
    devices::restarts_and_renumbering_leave_series_whole(bench).await.context("reboot and renumbering")?;
    kills::a_damaged_database_is_set_aside(bench).await.context("damaged database")?;
    kills::three_killed_hubs_come_back_with_everything(bench).await.context("three killed hubs")?;
    let end = now_ms();
    let seconds = bench.complete("*", bench.from_ms..end, Duration::from_secs(30)).await.context("all of it")?;
    bench.say(&format!("all {} s are as they were answered at every hub; comparing took {seconds:.1} s", (end - bench.from_ms) / 1000));
    Ok(())
}
