//! What the tools say of the template, and what they build.

use ::http::Request;
use lab::lambda::Function;
use lab::tools::run;

use crate::artefacts::{DEPLOYED, careless, deployed, lambda_build, machine};
use crate::sessions::Sessions;
use crate::tool::{CFN_LINT, SAM, target};

/// EM_X86_64 and EM_AARCH64.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;

#[test]
fn sam_and_cfn_lint_find_nothing() {
    run(SAM
        .command()
        .args(["validate", "--lint", "--region", "eu-central-1"]));
    let found = run(CFN_LINT.command().arg("template.yaml"));
    assert_eq!(found.trim(), "");
}

/// What one function may do is no other's: neither its role nor its logs are shared.
#[test]
fn each_function_has_its_own_role_and_logs() {
    let template = include_str!("../../../template.yaml");
    for (function, _) in DEPLOYED {
        let name = function.strip_suffix("Function").expect("a function");
        let role = format!("Role: !GetAtt {name}Role.Arn");
        let logs = format!("Resource: !GetAtt {name}Logs.Arn");
        for text in [role, logs] {
            assert_eq!(template.matches(&text).count(), 1, "{text}");
        }
    }
    let roles = template.matches("Role: !GetAtt ").count();
    assert_eq!(roles, DEPLOYED.len());
}

#[test]
fn sam_builds_every_function() {
    let here = if cfg!(target_arch = "aarch64") {
        AARCH64
    } else {
        X86_64
    };
    for (function, _) in DEPLOYED {
        assert_eq!(machine(&deployed(function)), here, "{function}");
    }
}

#[test]
fn cargo_lambda_builds_for_arm() {
    let folder = target().join("tools/arm64");
    lambda_build(&folder, &["--arm64", "--bin", "http"]);
    assert_eq!(machine(&folder.join("http/bootstrap")), AARCH64);
}

/// Left alone, cargo-lambda builds with `panic = "abort"`, and no layer could do anything.
#[tokio::test]
async fn panic_is_survived_in_a_release() {
    let sessions = Sessions::new().await;
    let builder = Function::builder(careless()).env("DATABASE_URL", sessions.url());
    let function = builder.start().await.expect("a function");
    let mut pids = Vec::new();
    for (path, status) in [("/partners", 201), ("/panic", 502), ("/partners", 201)] {
        let request = Request::get(path).body("").expect("a request");
        let (response, outcome) = function.request(request).await.expect("it runs");
        assert_eq!(response.status(), status, "{path}: {outcome:?}");
        pids.push(outcome.environment.pid());
        outcome.environment.frozen().await.expect("frozen");
        assert_eq!(sessions.restless().await, 0, "{path}");
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "the process ended over a panic");
}
