//! The layers together, and the sample file against the code.

use super::*;
use crate::cli::Cli;
use clap::Parser;

const SAMPLE: &str = include_str!("../../../../config/hornpipe.toml");

fn settings(args: &[&str]) -> Settings {
    Cli::parse_from([&["hornpipe"], args].concat()).settings
}

fn load_with(args: &[&str], environment: &[(&str, &str)], file: &str) -> Result<Resolved, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.toml");
    std::fs::write(&path, file).unwrap();
    let settings = Settings { config: Some(path), ..settings(args) };
    load(&settings, environment.iter().map(|(k, v)| (k.to_string(), v.to_string())))
        .map_err(|errors| errors.into_iter().map(|error| error.0).collect())
}

fn value(resolved: &Resolved, key: &str) -> String {
    let toml = resolved.to_toml();
    let line = toml.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
    line.unwrap_or_else(|| panic!("no {key} in {toml}")).to_owned()
}

/// The lines of the sample that set something, without their comment sign.
fn sample_lines() -> Vec<&'static str> {
    let setting = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| keys::KEYS.contains(&key));
    SAMPLE.lines().filter_map(|line| line.strip_prefix("# ")).filter(setting).collect()
}

#[test]
fn the_sample_has_every_key_once_with_its_default() {
    let lines = sample_lines();
    let found: Vec<_> = lines.iter().map(|line| line.split_once(" = ").unwrap().0).collect();
    assert_eq!(found, keys::KEYS);
    let of_sample = load_with(&[], &[], &lines.join("\n")).unwrap();
    let of_code = load_with(&[], &[], "").unwrap();
    assert_eq!(of_sample.to_toml(), of_code.to_toml());
    assert_eq!(format!("{:?}", of_sample.config.server.first), format!("{:?}", of_code.config.server.first));
    assert!(SAMPLE.lines().all(|line| line.is_empty() || line.starts_with('#')), "everything is commented out");
}

#[test]
fn every_key_is_resolved_once_and_reaches_the_limits() {
    let resolved = load_with(&[], &[], "").unwrap();
    let mut asked: Vec<_> = resolved.to_toml().lines().map(|l| l.split_once(" = ").unwrap().0.to_owned()).collect();
    let mut known = keys::KEYS.to_vec();
    asked.sort_unstable();
    known.sort_unstable();
    assert_eq!(asked, known);
    assert_eq!(resolved.config.server.limits, hornpipe_types::limits::Limits::default());
    assert_eq!(resolved.config.shutdown_timeout, Duration::from_secs(8));
}

#[test]
fn later_layers_win() {
    let file = "heartbeat = 10\nlog_level = \"warn\"\nchannel_max = 7\n";
    let environment = [("HORNPIPE_HEARTBEAT", "20"), ("HORNPIPE_LOG_LEVEL", "debug"), ("PATH", "/bin")];
    let resolved = load_with(&["--set", "heartbeat=30"], &environment, file).unwrap();
    assert_eq!(resolved.config.server.limits.heartbeat, 30);
    assert_eq!(resolved.config.server.limits.channel_max, 7);
    assert_eq!(resolved.config.log_level, "debug");
}

#[test]
fn rabbitmqs_variables() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "s3cret\n").unwrap();
    let path = secret.path().to_str().unwrap();
    let environment = [
        ("RABBITMQ_DEFAULT_USER", "app"),
        ("RABBITMQ_DEFAULT_PASS_FILE", path),
        ("RABBITMQ_DEFAULT_VHOST", "prod"),
        ("RABBITMQ_NODE_PORT", "5673"),
        ("RABBITMQ_LOGS", "-"),
    ];
    let server = load_with(&[], &environment, "").unwrap().config.server;
    let expected = FirstUserParts { name: "app", password: "s3cret", vhost: "prod" };
    expected.check(&server);
    assert_eq!(server.amqp, ["[::]:5673".parse().unwrap()]);

    let both =
        [&environment[..], &[("HORNPIPE_DEFAULT_USER", "ours"), ("HORNPIPE_AMQP", "127.0.0.1:1,127.0.0.1:2")]].concat();
    let server = load_with(&[], &both, "").unwrap().config.server;
    assert_eq!(server.first.name, "ours");
    assert_eq!(server.amqp, ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()]);
}

struct FirstUserParts {
    name: &'static str,
    password: &'static str,
    vhost: &'static str,
}

impl FirstUserParts {
    fn check(&self, server: &ServerConfig) {
        let first = &server.first;
        assert_eq!((&*first.name, &*first.password, &*first.vhost), (self.name, self.password, self.vhost));
        assert_eq!(first.tags, ["administrator"]);
    }
}

#[test]
fn lists_can_be_emptied() {
    let server = load_with(&[], &[("HORNPIPE_LOOPBACK_USERS", "")], "").unwrap().config.server;
    assert!(server.loopback_users.is_empty());
    assert!(load_with(&["--set", "http="], &[], "").unwrap().config.admin.http.is_empty());
}

#[test]
fn names_of_a_kubernetes_service_are_not_settings() {
    let links = [
        ("HORNPIPE_PORT", "tcp://10.0.0.1:5672"),
        ("HORNPIPE_PORT_5672_TCP_ADDR", "10.0.0.1"),
        ("HORNPIPE_SERVICE_HOST", "10.0.0.1"),
        ("HORNPIPE_SERVICE_PORT_AMQP", "5672"),
        ("HORNPIPE_HTTP_PORT", "tcp://10.0.0.1:15672"),
    ];
    assert!(load_with(&[], &links, "").is_ok());
}

#[test]
fn every_fault_is_named_with_key_value_and_what_is_allowed() {
    for (args, environment, file, expected) in [
        (&[][..], &[][..], "hearbeat = 1", "unknown key 'hearbeat' (FILE); did you mean 'heartbeat'?"),
        (
            &[],
            &[],
            "group_bytes = 1",
            "the key 'group_bytes' (FILE) is no more: it never had an effect; `pending_bytes` bounds what is written at \
             once. Leave it out",
        ),
        (&[], &[], "[limits]\nx = 1", "FILE has a section [limits]: keys stand at the top, without sections"),
        (&[], &[], "heartbeat = 70000", "heartbeat = 70000 (FILE) is not allowed: must be an integer from 0 to 65535"),
        (&[], &[], "heartbeat = true", "heartbeat = true (FILE) is not allowed: must be an integer from 0 to 65535"),
        (
            &[],
            &[("HORNPIPE_GLOBAL_QOS", "maybe")],
            "",
            "global_qos = \"maybe\" (environment variable HORNPIPE_GLOBAL_QOS) is not allowed: must be true or false",
        ),
        (
            &[],
            &[("HORNPIPE_LOG_LEVLE", "info")],
            "",
            "unknown key 'log_levle' (environment variable HORNPIPE_LOG_LEVLE); did you mean 'log_level'?",
        ),
        (&["--log-format", "xml"], &[], "", "log_format = \"xml\" (command line) is not allowed: must be text or json"),
        (
            &["--set", "memory_watermark=2"],
            &[],
            "",
            "memory_watermark = \"2\" (command line) is not allowed: must be a number from 0 to 1",
        ),
        (
            &[],
            &[],
            "frame_max = 4096\nframe_max_min = 8192",
            "frame_max_min = 8192 is not allowed: must not be above frame_max = 4096",
        ),
        (&[], &[], "default_pass = \"\"", "default_pass (FILE) is not allowed: must be text that is not empty"),
        (
            &[],
            &[("RABBITMQ_DEFAULT_USER", "a"), ("RABBITMQ_DEFAULT_USER_FILE", "/b")],
            "",
            "RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_USER_FILE are both set; set one of them",
        ),
    ] {
        let errors = load_with(args, environment, file).expect_err(expected);
        let errors: Vec<_> = errors.iter().map(|error| without_path(error)).collect();
        assert_eq!(errors, [expected]);
    }
}

/// The test's file has a new path each time.
fn without_path(text: &str) -> String {
    let path = text.split(['(', ')', ' ']).find(|part| part.ends_with("test.toml"));
    path.map_or(text.to_owned(), |path| text.replace(path, "FILE"))
}

#[test]
fn all_faults_are_reported_at_once() {
    let errors = load_with(&["--set", "nonsense"], &[], "heartbeat = -1\nchannel_max = 0\n").unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
    let syntax = load_with(&[], &[], "heartbeat = = 1").unwrap_err();
    assert!(syntax[0].contains("is not valid TOML"), "{syntax:?}");
}

#[test]
fn what_is_printed_can_be_read_again_and_hides_the_password() {
    let resolved = load_with(&["--set", "default_pass=hush", "--amqp", "127.0.0.1:0"], &[], "").unwrap();
    let printed = resolved.to_toml();
    assert!(!printed.contains("hush"));
    assert_eq!(value(&resolved, "amqp"), "[\"127.0.0.1:0\"]");
    let again = load_with(&[], &[], &printed).unwrap();
    assert_eq!(again.to_toml(), printed);
}

#[test]
fn what_is_only_faster_in_memory_shrinks_with_the_memory_limit() {
    let of = |limit: &str| load_with(&[], &[], &format!("memory_limit = \"{limit}\"")).unwrap();
    let (small, large) = (of("300MiB"), of("64GiB"));
    let limits = |c: &Resolved| {
        let s = &c.config.server;
        (s.limits.resident_bytes, s.limits.pending_bytes, s.limits.inline_live_bytes, s.store.cache_bytes)
    };
    assert_eq!(limits(&large), (32 << 20, 8 << 20, 32 << 20, 64 << 20));
    let (resident, pending, inline, cache) = limits(&small);
    assert_eq!(resident, (300 << 20) / 16);
    assert!(resident + pending + inline + cache < 300 << 18, "a quarter of the limit at most");
}
