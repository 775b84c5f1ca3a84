//! Mistakes in the configuration and in the use of the crate.

use super::*;

/// What has nothing to do with the server.
pub async fn misuse(golden: &mut Golden) {
    let postgres = Postgres::shared().await.expect("a server");
    let url = postgres.url();
    let config = Config::from_url(&url).expect("a URL").max_connections(0);
    let error = Database::new(config).expect_err("no connections");
    golden.add("a setting makes no sense", &error);

    let error = connection().await.expect_err("outside");
    golden.add("a connection is asked for outside any invocation", &error);

    let database = database_with(&url, |config| {
        config
            .max_connections(1)
            .acquire_timeout(Duration::from_millis(50))
    });
    let ended = async { antifreeze::invocation() };
    let ended = database.invocation(PLENTY, ended).await.expect("fine");
    let error = ended.connection().await.expect_err("too late");
    golden.add("an invocation that has ended is asked", &error);

    let line = line!() + 3;
    let error = failing(&database, async {
        let _held = connection().await?;
        connection().await.map(drop)
    });
    golden.volatile(
        format!("tests/errors/mistakes.rs:{line}"),
        "tests/errors.rs:LINE",
    );
    let error = error.await;
    golden.add("a second connection is asked for, of one", &error);

    let (held, holding) = tokio::sync::oneshot::channel::<()>();
    let (over, refusal) = tokio::sync::oneshot::channel::<()>();
    let holder = database.invocation(PLENTY, async {
        let _held = connection().await?;
        let _ = held.send(());
        let _ = refusal.await;
        Ok::<_, Error>(())
    });
    let waiter = async {
        holding.await.expect("held");
        let error = refused(&database).await;
        let _ = over.send(());
        error
    };
    let (held, error) = tokio::join!(holder, waiter);
    held.expect("fine");
    golden.add("other invocations do not give a connection back", &error);

    let never = async {
        pending::<()>().await;
        Ok::<_, Error>(())
    };
    let error = database.invocation(Duration::from_millis(100), never).await;
    golden.add("the deadline is reached", &error.expect_err("in time"));
}

/// URLs that are not right.
pub fn configuration(golden: &mut Golden) {
    for (what, url) in [
        (
            "an @ in the password",
            "postgres://app:hunter2@hunter2@db/shop",
        ),
        (
            "a / in the password",
            "postgres://app:hunter2/hunter2@db/shop",
        ),
        (
            "a # in the password",
            "postgres://app:hunter2#hunter2@db/shop",
        ),
        (
            "a placeholder for the password",
            "postgres://app:[YOUR-PASSWORD]@db/shop",
        ),
        (
            "the password in the user's place",
            "postgres://app%3Ahunter2@db/shop",
        ),
        (
            "parameters that are separated wrongly",
            "host=db;user=app;password=hunter2",
        ),
        (
            "a host with a port among keywords",
            "host=db:5432 password=hunter2",
        ),
        (
            "a template that was not filled in",
            "postgres://app:hunter2@${DB_HOST}/shop",
        ),
        ("nothing but a placeholder", "[REDACTED]"),
        (
            "a URL of Java's",
            "jdbc:postgresql://db/shop?password=hunter2",
        ),
        (
            "a parameter of Java's",
            "postgres://app:hunter2@db/shop?currentSchema=x",
        ),
        (
            "a parameter of Prisma's",
            "postgres://app:hunter2@db/shop?sslaccept=strict",
        ),
        (
            "an sslmode of node-postgres",
            "postgres://app:hunter2@db/shop?sslmode=no-verify",
        ),
        (
            "ssl that is not true",
            "postgres://app:hunter2@db/shop?ssl=require",
        ),
        (
            "ssl against sslmode",
            "postgres://app:hunter2@db/shop?sslmode=disable&ssl=true",
        ),
        (
            "a plus for a space",
            "postgres://app:hunter2@db/shop?options=-c+search_path%3Dx",
        ),
        ("an empty URL", " "),
        (
            "an unknown parameter of the URL",
            "postgres://app:hunter2@db/shop?sslmod=require",
        ),
        (
            "no such sslmode",
            "postgres://app:hunter2@db/shop?sslmode=verify_full",
        ),
        ("no URL", "hunter2"),
    ] {
        match Config::from_url(url).and_then(Database::new) {
            Ok(_) => panic!("{what} was taken"),
            Err(error) => golden.add(what, &error),
        }
    }
}
