//! Detects containers and hosts in which `localhost` is the process itself.

use std::path::Path;

/// Detects a container, in which `localhost` is the process itself.
pub(super) fn inside() -> Option<&'static str> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    told_by(set, |path| Path::new(path).exists())
}

/// Lambda, Vercel and Kubernetes set these variables in every function and pod (their
/// documents on environment variables); Docker and Podman leave these files.
fn told_by(set: impl Fn(&str) -> bool, exists: impl Fn(&str) -> bool) -> Option<&'static str> {
    let variables = [
        ("AWS_LAMBDA_FUNCTION_NAME", "Lambda"),
        ("VERCEL", "Vercel"),
        ("KUBERNETES_SERVICE_HOST", "the pod"),
    ];
    let files = ["/.dockerenv", "/run/.containerenv"];
    let variable = variables.iter().find(|(name, _)| set(name));
    let file = || files.iter().find(|path| exists(path));
    variable
        .map(|(_, inside)| *inside)
        .or_else(|| file().map(|_| "the container"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_is_named() {
        for (variable, file, expected) in [
            ("AWS_LAMBDA_FUNCTION_NAME", "", Some("Lambda")),
            ("KUBERNETES_SERVICE_HOST", "/.dockerenv", Some("the pod")),
            ("", "/.dockerenv", Some("the container")),
            ("HOME", "/etc/passwd", None),
        ] {
            let told = told_by(|name| name == variable, |path| path == file);
            assert_eq!(told, expected, "{variable} {file}");
        }
    }
}
