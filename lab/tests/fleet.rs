//! A hundred and fifty instances before a server with 25 slots: nobody fails who could
//! have waited, nobody is locked out.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use lab::fleet::{Burst, Fleet, ROLE, prepare};
use lab::postgres::{Database, Postgres};
use lab::relay::Relay;
use tokio::sync::Mutex;

const INSTANCES: usize = 150;

/// What Lambda grants.
const DEADLINE: Duration = Duration::from_secs(60);

/// Slots that anybody may have: 25, of which 3 are the superusers'.
const SLOTS: i64 = 22;

/// A fleet has the machine for itself.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn server() -> (Postgres, Database) {
    let postgres = Postgres::builder()
        .setting("max_connections", 25)
        .start()
        .await
        .expect("a server");
    let database = prepare(&postgres).await.expect("a database");
    (postgres, database)
}

async fn fleet(database: &Database, url: &str) -> Fleet {
    let function = Path::new(env!("CARGO_BIN_EXE_visit"));
    Fleet::start(INSTANCES, function, database, url, DEADLINE)
        .await
        .expect("a fleet")
}

fn show(what: &str, fleet: &Fleet, burst: &Burst) {
    println!(
        "{what}: {} instances, {} served, failed {:?}, {:.1?} in all, the slowest {:.1?}",
        fleet.instances(),
        burst.served,
        burst.failed,
        burst.elapsed,
        burst.slowest
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_are_served_within_the_limit() {
    let _alone = ALONE.lock().await;
    let (_postgres, database) = server().await;
    let fleet = fleet(&database, &database.url_for(ROLE)).await;
    for number in 1..=3 {
        let burst = fleet.burst(INSTANCES).await.expect("answers");
        show(&format!("burst {number}"), &fleet, &burst);
        assert_eq!(burst.served, INSTANCES, "{:?}", burst.failed);
    }
    let seen = fleet.seen();
    println!("{seen:?}");
    assert_eq!(fleet.instances(), INSTANCES);
    assert!(
        seen.most > SLOTS / 2 && seen.most_of_all <= SLOTS,
        "{seen:?}"
    );
    assert!(
        seen.others > 10 && seen.longest < Duration::from_secs(10),
        "{seen:?}"
    );
    // What the frozen ones keep leaves room for others.
    let idle = "select 1 from pg_stat_activity where usename = 'fleet'";
    let kept = database.query(idle).await.expect("activity").len() as i64;
    println!("{kept} connections are kept while all are frozen");
    assert!(kept > 0 && kept * 100 <= SLOTS * 85, "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_costs_what_was_under_way_and_no_more() {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    let fleet = fleet(&database, &database.url_for(ROLE)).await;
    let first = fleet.burst(INSTANCES).await.expect("answers");
    assert_eq!(first.served, INSTANCES, "{:?}", first.failed);
    let busy = async {
        let busy = "select 1 from pg_stat_activity where usename = 'fleet' and state = 'active'";
        while database.query(busy).await.expect("activity").is_empty() {}
    };
    let mut burst = pin!(fleet.burst(INSTANCES));
    tokio::select! {
        _ = burst.as_mut() => panic!("it was over before anybody looked"),
        () = busy => {}
    }
    let (burst, restarted) = tokio::join!(burst, postgres.restart());
    restarted.expect("it restarts");
    let burst = burst.expect("answers");
    show("with a restart", &fleet, &burst);
    // Nobody knows whether their statement was executed: it is not sent again.
    let cut: usize = burst.failed.values().sum();
    assert!(cut as i64 <= SLOTS, "{:?}", burst.failed);
    let kinds = ["503 closed", "503 server_stopping"];
    let known = |kind: &String| kinds.contains(&kind.as_str());
    assert!(burst.failed.keys().all(known), "{:?}", burst.failed);
    assert_eq!(burst.served + cut, INSTANCES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_a_limit_of_its_own_leaves_the_rest_to_others() {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    let limit = format!("alter role {ROLE} connection limit 10");
    postgres.execute(&limit).await.expect("a limit");
    let fleet = fleet(&database, &database.url_for(ROLE)).await;
    for number in 1..=2 {
        let burst = fleet.burst(INSTANCES).await.expect("answers");
        show(&format!("limited to 10, burst {number}"), &fleet, &burst);
        assert_eq!(burst.served, INSTANCES, "{:?}", burst.failed);
    }
    let seen = fleet.seen();
    println!("{seen:?}");
    assert!(seen.most > 5 && seen.most <= 10, "{seen:?}");
    assert_eq!(seen.refused, 0, "{seen:?}");
}

/// Ten seconds of refusals: how often the fleet asks, and how soon it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_is_not_hammered() {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let fleet = fleet(&database, &relay.url(&database.url_for(ROLE))).await;
    let first = fleet.burst(INSTANCES).await.expect("answers");
    assert_eq!(first.served, INSTANCES, "{:?}", first.failed);

    let refuse = format!(
        "alter role {ROLE} connection limit 0; \
         select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{ROLE}'"
    );
    postgres.execute(&refuse).await.expect("a limit");
    let before = relay.counts().connections;
    let outage = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let connects = relay.counts().connections - before;
        let admit = format!("alter role {ROLE} connection limit 10");
        postgres.execute(&admit).await.expect("a limit");
        (connects, Instant::now())
    };
    let (burst, (connects, since)) = tokio::join!(fleet.burst(INSTANCES), outage);
    let recovered = since.elapsed();
    let burst = burst.expect("answers");
    show("after ten seconds of refusals", &fleet, &burst);
    let rate = connects as f64 / 10.0;
    println!(
        "{connects} connects in 10 s: {rate:.1} a second over the whole fleet, {:.2} for each; \
         all were served {recovered:.1?} after it took connections again",
        rate / fleet.instances() as f64
    );
    assert_eq!(burst.served, INSTANCES, "{:?}", burst.failed);
    // With full jitter below 2 s, one a second for each; the first tries are closer.
    assert!(rate < 2.0 * INSTANCES as f64, "{rate}");
}
