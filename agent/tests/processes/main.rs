//! Tests with real processes: the shim alone, and an agent against a fake master.
//!
//! `harness = false`, since this binary is also the shim: `processes shim DIR`.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "helpers of tests: a panic is the report"
)]

mod agent;
mod containers;
mod crash;
mod exec;
mod executors;
mod limits;
mod master;
mod names;
mod nested;
mod networks;
mod operator;
mod shims;
mod short;
mod storage;
mod support;
mod wire;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    (
        "shim_keeps_exit_code_and_output",
        shims::keeps_exit_code_and_output,
    ),
    (
        "shim_gives_a_task_its_signals",
        shims::gives_a_task_its_signals,
    ),
    (
        "shim_ends_what_the_task_left_behind",
        shims::ends_what_the_task_left_behind,
    ),
    (
        "shim_escalates_after_the_grace_period",
        shims::escalates_after_the_grace_period,
    ),
    (
        "shim_names_the_step_that_failed",
        shims::names_the_step_that_failed,
    ),
    (
        "shim_does_not_run_a_task_twice_or_after_it_was_given_up",
        shims::runs_a_task_once,
    ),
    ("shim_bounds_the_logs", shims::bounds_the_logs),
    (
        "shim_keeps_a_task_waiting_that_asked_for_it",
        shims::keeps_a_task_waiting_that_asked_for_it,
    ),
    (
        "agent_runs_checks_adopts_and_ends_a_task",
        agent::runs_checks_adopts_and_ends_a_task,
    ),
    (
        "agent_reports_what_ended_while_it_was_away",
        agent::reports_what_ended_while_it_was_away,
    ),
    (
        "agent_reports_an_honest_unknown_when_the_shim_died",
        agent::reports_unknown_when_the_shim_died,
    ),
    (
        "agent_tells_all_of_short_tasks",
        short::every_short_task_has_its_exit_output_and_cpu_time,
    ),
    (
        "agent_kills_an_unhealthy_task",
        agent::kills_an_unhealthy_task,
    ),
    (
        "agent_runs_command_checks_in_the_sandbox",
        agent::runs_command_checks_in_the_sandbox,
    ),
    (
        "agent_says_why_a_launch_failed",
        agent::says_why_a_launch_failed,
    ),
    ("agent_reports_oom_as_such", agent::reports_oom_as_such),
    (
        "agent_is_what_it_was_or_says_what_differs",
        agent::is_what_it_was_or_says_what_differs,
    ),
    (
        "agent_finds_the_master_that_answers",
        agent::finds_the_master_that_answers,
    ),
    (
        "agent_ends_a_task_within_the_bound_of_a_kill",
        wire::ends_a_task_within_the_bound_of_a_kill,
    ),
    (
        "agent_keeps_the_data_of_volumes",
        wire::keeps_the_data_of_volumes,
    ),
    (
        "storage_kills_a_task_over_its_disk",
        storage::kills_a_task_over_its_disk,
    ),
    (
        "storage_removes_old_sandboxes",
        storage::removes_old_sandboxes,
    ),
    (
        "storage_fetches_before_the_start",
        storage::fetches_before_the_start,
    ),
    (
        "storage_takes_snapshots_and_restores_them",
        storage::takes_snapshots_and_restores_them,
    ),
    (
        "storage_keeps_a_database_through_kills",
        storage::keeps_a_database_through_kills,
    ),
    (
        "storage_mounts_into_containers",
        storage::mounts_into_containers,
    ),
    (
        "agent_says_what_it_has_and_where_it_stands",
        wire::says_what_it_has_and_where_it_stands,
    ),
    (
        "agent_answers_from_the_last_desired_state",
        names::answers_from_the_last_desired_state,
    ),
    (
        "agent_keeps_a_task_within_its_cpu_time",
        limits::keeps_a_task_within_its_cpu_time,
    ),
    (
        "agent_ends_a_task_that_runs_for_too_long",
        limits::ends_a_task_that_runs_for_too_long,
    ),
    ("agent_stops_a_fork_bomb", limits::stops_a_fork_bomb),
    (
        "agent_lets_memory_go_up_to_its_ceiling",
        limits::lets_memory_go_up_to_its_ceiling,
    ),
    (
        "agent_limits_what_processes_may",
        limits::limits_what_processes_may,
    ),
    (
        "agent_gives_a_gpu_to_one_task",
        limits::gives_a_gpu_to_one_task,
    ),
    (
        "executors_run_several_tasks_survive_the_agent_and_end_as_told",
        executors::run_several_tasks_survive_the_agent_and_end_as_told,
    ),
    (
        "executors_whose_process_is_killed_and_calls_that_are_wrong",
        executors::whose_process_is_killed_and_calls_that_are_wrong,
    ),
    ("agent_tells_programs_about_names", names::tells_programs),
    (
        "operator_sees_what_runs_and_what_it_uses",
        operator::sees_what_runs_and_what_it_uses,
    ),
    (
        "operator_sees_executors_with_their_tasks",
        operator::sees_executors_with_their_tasks,
    ),
    (
        "operator_reads_files_and_hears_what_is_wrong",
        operator::reads_files_and_hears_what_is_wrong,
    ),
    (
        "survival_at_every_step_on_disk",
        crash::at_every_step_on_disk,
    ),
    (
        "survival_of_every_exit_while_away",
        crash::every_exit_while_away,
    ),
    ("survival_of_a_boot", crash::a_boot),
    (
        "survival_of_a_number_that_is_anothers",
        crash::a_number_that_is_anothers,
    ),
    ("survival_of_a_killed_shim", crash::a_killed_shim),
    (
        "survival_of_a_container_half_taken_apart",
        crash::a_container_half_taken_apart,
    ),
    (
        "survival_of_damaged_checkpoints",
        crash::damaged_checkpoints,
    ),
    ("exec_runs_as_the_task", exec::runs_as_the_task),
    (
        "exec_passes_input_within_its_window",
        exec::passes_input_within_its_window,
    ),
    (
        "exec_slows_a_command_down_to_its_reader",
        exec::slows_a_command_down_to_its_reader,
    ),
    ("exec_leaves_nothing_behind", exec::leaves_nothing_behind),
    ("exec_gives_a_terminal", exec::gives_a_terminal),
    ("exec_enters_a_container", exec::enters_a_container),
    ("exec_attaches_to_output", exec::attaches_to_output),
    ("exec_attaches_to_a_terminal", exec::attaches_to_a_terminal),
    ("exec_enters_containers", exec::enters_containers),
    ("exec_refuses_what_it_must", exec::refuses_what_it_must),
    (
        "nested_sessions_run_beside_the_task",
        nested::sessions_run_beside_the_task,
    ),
    (
        "nested_sessions_take_input_and_have_terminals",
        nested::sessions_take_input_and_have_terminals,
    ),
    (
        "nested_containers_live_as_long_as_they_may",
        nested::containers_live_as_long_as_they_may,
    ),
    (
        "nested_containers_enter_an_image",
        nested::containers_enter_an_image,
    ),
    (
        "nested_containers_may_stand_alone",
        nested::containers_may_stand_alone,
    ),
    (
        "nested_calls_are_refused_as_mesos_does",
        nested::calls_are_refused_as_mesos_does,
    ),
    (
        "files_of_sandboxes_are_shown",
        exec::shows_files_of_sandboxes,
    ),
    ("container_runs_an_image", containers::runs_an_image),
    ("container_is_isolated", containers::is_isolated),
    ("container_maps_users", containers::maps_users),
    ("container_ends_as_it_should", containers::ends_as_it_should),
    ("container_reaps_orphans", containers::reaps_orphans),
    (
        "container_outlives_the_agent",
        containers::outlives_the_agent,
    ),
    (
        "container_is_cleaned_up_without_its_shim",
        containers::is_cleaned_up_without_its_shim,
    ),
    (
        "container_is_killed_while_its_image_is_pulled",
        containers::is_killed_while_its_image_is_pulled,
    ),
    (
        "container_is_held_to_its_disk",
        limits::of_disk_hold_for_all_that_a_container_writes,
    ),
    ("container_says_why_not", containers::says_why_not),
    (
        "container_has_what_its_node_allows",
        containers::has_what_its_node_allows,
    ),
    ("container_has_a_terminal", containers::has_a_terminal),
    (
        "network_reaches_containers_behind_the_bridge",
        networks::reaches_containers_behind_the_bridge,
    ),
    ("network_is_a_pods", networks::is_a_pods),
    (
        "container_is_limited_and_has_its_gpus",
        networks::is_limited_and_has_its_gpus,
    ),
    ("container_runs_from_scratch", containers::runs_from_scratch),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, command, dir] = args.as_slice()
        && command == "shim"
    {
        return waggle_agent::shim_main(Path::new(dir));
    }
    if let [_, command] = args.as_slice()
        && command == "exec-shim"
    {
        return waggle_agent::exec_shim_main();
    }
    if let [_, command] = args.as_slice()
        && command == "executor"
    {
        return executors::run();
    }
    if let [_, command, dir, master, rest @ ..] = args.as_slice()
        && command == "agent"
    {
        agent::run_alone(Path::new(dir), master, rest.first());
        return ExitCode::SUCCESS;
    }
    // Enough of libtest's command line for cargo and for people.
    if args.iter().any(|a| a == "--list") {
        for (name, _) in TESTS {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let exact = args.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = args[1..].iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| {
        let hit = |f: &&&String| {
            if exact {
                name == f.as_str()
            } else {
                name.contains(f.as_str())
            }
        };
        filters.is_empty() || filters.iter().any(|f| hit(&f))
    };
    if let Some(code) = support::run_marked() {
        return code;
    }
    let mut n_failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let begun = std::time::Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        let word = if passed { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {word} ({} ms)",
            begun.elapsed().as_millis()
        );
        n_failed += u8::from(!passed);
    }
    crash::tidy();
    ExitCode::from(n_failed)
}
