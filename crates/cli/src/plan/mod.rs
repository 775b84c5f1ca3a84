//! `antifreeze plan`: whether the server has room for what is to be deployed.

mod arithmetic;
mod group;
mod limit;
mod provider;

use antifreeze_doctor::Mark;
use arithmetic::{Fit, Plan};
use clap::Args;
use group::Group;
use limit::Limit;
use provider::Provider;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::Reach;

/// Example: antifreeze plan --instances 200 --size 1 --group worker=3x5 --provider neon:1
#[derive(Args)]
pub struct Arguments {
    /// Instances of the function at most: its reserved concurrency, or that of the account
    #[arg(long, required_unless_present = "group")]
    instances: Option<u64>,
    /// max_connections of each
    #[arg(long, default_value_t = 1)]
    size: u64,
    /// Others who connect to the same server, NAME=INSTANCESxSIZE; may be given several times
    #[arg(long, value_parser = Group::parse, value_name = "GROUP")]
    group: Vec<Group>,
    /// How much of the old deployment is still there while the new one starts, in percent
    #[arg(long, default_value_t = 100, value_name = "PERCENT")]
    overlap: u64,
    /// They go through a pooler in transaction mode, which has so many connections
    #[arg(long, value_name = "CONNECTIONS")]
    pool_size: Option<u64>,
    /// Sessions of others, which are in none of the groups
    #[arg(long, default_value_t = 0)]
    others: u64,
    /// The server's max_connections [default: asked of the server]
    #[arg(long, conflicts_with = "provider")]
    limit: Option<u64>,
    /// Connections that the server holds back from ordinary roles
    #[arg(long, requires = "limit", default_value_t = 3)]
    reserved: u64,
    /// The limit of a provider's plan: neon:CU, rds:MEMORY (rds:8GiB), supabase:SIZE
    /// (supabase:small)
    #[arg(long, value_parser = Provider::parse, value_name = "PLAN")]
    provider: Option<Provider>,
}

pub async fn run(reach: &Reach, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let limit = match (arguments.limit, &arguments.provider) {
        (Some(max), _) => Limit::given(max, arguments.reserved),
        (None, Some(provider)) => provider.limit(),
        (None, None) => Limit::ask(reach).await?,
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
            "open": plan.open(),
            "limit": plan.limit,
            "groups": plan.groups,
            "others": plan.others,
            "advice": plan.advice(),
        });
        paint::document(&document);
    } else {
        show(&plan, fit);
    }
    Ok(match fit {
        Fit::Well => Outcome::Well,
        Fit::Tight | Fit::TooMany => Outcome::Findings,
    })
}

fn show(plan: &Plan, fit: Fit) {
    for group in &plan.groups {
        paint::print(&format!(
            "{:<20} {:>7} = {} instances x {} connections",
            group.name,
            group.connections(),
            group.instances,
            group.size
        ));
    }
    let line = |name: &str, count: u64, why: &str| {
        paint::print(&format!("{name:<20} {count:>7}   {}", paint::faint(why)));
    };
    let overlap = format!("{} % of the old deployment are still there", plan.overlap);
    line("while deploying", plan.peak(), &overlap);
    if let Some(pool) = plan.pool_size {
        line(
            "through the pooler",
            pool,
            "whatever the number of its clients",
        );
    }
    line("room", plan.open(), &plan.room());
    let (mark, verdict) = match fit {
        Fit::Well => (Mark::Well, "it fits"),
        Fit::Tight => (Mark::Finding, "it fits barely: more than 80 % of the room"),
        Fit::TooMany => (Mark::Failed, "it does not fit"),
    };
    paint::print(&paint::marked(mark, verdict));
    for advice in plan.advice() {
        paint::print(&format!("-> {advice}"));
    }
}
