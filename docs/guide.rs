//! The four pages that most functions need.

/// What the links of the pages lead to here: of several definitions the first is used, and
/// those at the end of each page, which are relative, are for the repository.
macro_rules! links {
    () => {
        links! {
            "api": "api",
            "api/rest.rs": "api/rest.rs",
            "command": "docs/command.md",
            "compatibility": "docs/compatibility.md#other-drivers",
            "connect": "docs/benchmarks.md#a-new-connection",
            "drivers/examples": "drivers/examples",
            "examples/doctor_lambda.rs": "examples/doctor_lambda.rs",
            "examples/graphql.rs": "examples/graphql.rs",
            "examples/tower.rs": "examples/tower.rs",
            "functions": "functions",
            "health": "docs/health.md",
            "limits": "docs/limits.md",
            "migrations": "docs/migrations.md",
            "prove": "docs/prove.md",
            "providers": "docs/providers/README.md",
            "rds": "docs/providers/rds.md",
            "role-timeouts": "docs/server-timeouts.md#behind-a-pooler",
            "runbook": "docs/runbook.md",
            "starters/lambda": "starters/lambda/README.md",
            "starters/lambda-sqlx": "starters/lambda-sqlx/README.md",
            "starters/vercel": "starters/vercel/README.md",
            "starters/vercel-sqlx": "starters/vercel-sqlx/README.md",
            "template.yaml": "template.yaml",
            "timeouts": "docs/server-timeouts.md",
        }
    };
    ($($label:literal: $path:literal,)*) => {
        concat!(
            "[lifetime]: crate::guide::basics#how-long-should-a-connection-live\n",
            "[lambda]: crate::guide::lambda\n",
            "[deadline]: crate::guide::lambda#the-deadline\n",
            "[unwind]: crate::guide::lambda#1-a-function\n",
            "[vercel]: crate::guide::vercel\n",
            "[sigterm]: crate::guide::vercel#fluid-compute-one-process-many-requests\n",
            "[drivers]: crate::guide::other_drivers\n",
            "[claims]: crate::guide::other_drivers#several-invocations-at-once\n",
            $("[", $label, "]: ", env!("CARGO_PKG_REPOSITORY"), "/blob/main/", $path, "\n",)*
        )
    };
}

#[doc = links!()]
#[doc = include_str!("guide.md")]
pub mod basics {}

#[doc = links!()]
#[doc = include_str!("lambda.md")]
pub mod lambda {}

// Its examples need the drivers: the package `drivers` compiles them.
#[cfg(not(doctest))]
#[doc = links!()]
#[doc = include_str!("other-drivers.md")]
pub mod other_drivers {}

#[cfg(any(not(doctest), feature = "vercel"))]
#[doc = links!()]
#[doc = include_str!("vercel.md")]
pub mod vercel {}
