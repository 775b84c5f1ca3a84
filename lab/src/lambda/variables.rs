//! What a function's process sees of the world.

use std::{env, net::SocketAddr, path::Path, process::Command};

use super::Builder;

/// The command that starts an environment, with what Lambda sets and nothing of
/// the tester's shell.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>
pub(super) fn command(builder: &Builder, id: &str, temporary: &Path, api: SocketAddr) -> Command {
    let mut command = Command::new(&builder.executable);
    command.env_clear();
    command.envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command
        .env("TMPDIR", temporary)
        .env("AWS_LAMBDA_RUNTIME_API", api.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", &builder.name)
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env(
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            builder.memory.to_string(),
        )
        .env(
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/aws/lambda/{}", builder.name),
        )
        .env("AWS_LAMBDA_LOG_STREAM_NAME", id)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("_HANDLER", "bootstrap")
        .env("LAMBDA_RUNTIME_DIR", "/var/runtime")
        .env("LANG", "en_US.UTF-8")
        .env("TZ", ":UTC");
    if let Some(directory) = builder.executable.parent() {
        command
            .env("LAMBDA_TASK_ROOT", directory)
            .current_dir(directory);
    }
    let kind = match builder.concurrency {
        _ if builder.snap_start => "snap-start",
        1 => "on-demand",
        several => {
            command.env("AWS_LAMBDA_MAX_CONCURRENCY", several.to_string());
            "lambda-managed-instances"
        }
    };
    command.env("AWS_LAMBDA_INITIALIZATION_TYPE", kind);
    command.envs(builder.variables.iter().map(|(name, value)| (name, value)));
    command
}
