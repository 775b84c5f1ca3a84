//! `antifreeze plan`: calculates whether the server has enough slots for a deployment.

mod capacity;
mod group;
mod limit;
mod provider;

use antifreeze_doctor::Status;
use capacity::{Fit, Plan};
use clap::Args;
use group::Group;
use limit::Limit;
use provider::Provider;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::target::Target;

/// Example: antifreeze plan --instances 200 --size 1 --group worker=3x5 --provider neon:1
#[derive(Args)]
pub struct Arguments {
    /// The maximum number of instances of the function: its reserved concurrency, or that of
    /// the account
    #[arg(long, required_unless_present = "group")]
    instances: Option<u64>,
    /// The connections of each instance (max_connections in antifreeze's configuration)
    #[arg(long, default_value_t = 1)]
    size: u64,
    /// Another group of processes that connect to the same server, NAME=INSTANCESxSIZE; may be
    /// given several times
    #[arg(long, value_parser = Group::parse, value_name = "GROUP")]
    group: Vec<Group>,
    /// The percentage of the old deployment that is still running while the new one starts
    #[arg(long, default_value_t = 100, value_name = "PERCENT")]
    overlap: u64,
    /// The number of connections of the pooler in transaction mode that the groups use
    #[arg(long, value_name = "CONNECTIONS")]
    pool_size: Option<u64>,
    /// The number of sessions of other clients, in addition to the groups
    #[arg(long, default_value_t = 0)]
    others: u64,
    /// The server's max_connections [default: queried from the server]
    #[arg(long, conflicts_with = "provider")]
    limit: Option<u64>,
    /// The number of connections that are not available to ordinary roles
    #[arg(long, requires = "limit", default_value_t = 3)]
    reserved: u64,
    /// The limit of a provider's plan: neon:CU, rds:MEMORY (rds:8GiB), supabase:SIZE
    /// (supabase:small)
    #[arg(long, value_parser = Provider::parse, value_name = "PLAN")]
    provider: Option<Provider>,
}

pub async fn run(target: &Target, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let limit = match (arguments.limit, &arguments.provider) {
        (Some(max), _) => Limit::given(max, arguments.reserved),
        (None, Some(provider)) => provider.limit(),
        (None, None) => Limit::query(target).await?,
    };
    let mut groups = Vec::new();
    if let Some(instances) = arguments.instances {
        groups.push(Group::new("functions", instances, arguments.size));
    }
    groups.extend(arguments.group);
    let plan = Plan {
        groups,
        overlap: arguments.overlap,
        pool_size: arguments.pool_size,
        others: arguments.others,
        limit,
    };
    let fit = plan.fit();
    if json {
        let document = json!({
            "verdict": fit,
            "needed": plan.needed(),
            "steady": plan.steady(),
            "peak": plan.peak(),
            "available": plan.available(),
            "limit": plan.limit,
            "groups": plan.groups,
            "others": plan.others,
            "advice": plan.advice(),
        });
        output::print_json(&document);
    } else {
        show(&plan, fit);
    }
    Ok(match fit {
        Fit::Ok => Outcome::Success,
        Fit::Tight | Fit::TooMany => Outcome::Findings,
    })
}

fn show(plan: &Plan, fit: Fit) {
    for group in &plan.groups {
        output::print(&format!(
            "{:<20} {:>7} = {} instances x {} connections",
            group.name,
            group.connections(),
            group.instances,
            group.size
        ));
    }
    let line = |name: &str, count: u64, why: &str| {
        output::print(&format!("{name:<20} {count:>7}   {}", output::faint(why)));
    };
    let overlap = format!("with {} % of the old deployment", plan.overlap);
    line("while deploying", plan.peak(), &overlap);
    if let Some(pool) = plan.pool_size {
        line(
            "through the pooler",
            pool,
            "independent of the number of clients",
        );
    }
    line("available", plan.available(), &plan.describe_limit());
    let (status, verdict) = match fit {
        Fit::Ok => (Status::Ok, "it fits"),
        Fit::Tight => (
            Status::Finding,
            "it fits, but uses more than 80 % of the available connections",
        ),
        Fit::TooMany => (Status::Failed, "it does not fit"),
    };
    output::print(&output::colored(status, verdict));
    for advice in plan.advice() {
        output::print(&format!("-> {advice}"));
    }
}
