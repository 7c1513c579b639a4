//! The command line. Flags beat environment variables, those the file, that the defaults.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// An AMQP 0-9-1 broker that RabbitMQ clients talk to unchanged.
///
/// Each key of the configuration file can also be given as `HORNPIPE_<KEY>` in the environment or as --set key=value.
#[derive(Debug, Parser)]
#[command(name = "hornpipe", version)]
pub(crate) struct Cli {
    /// Something else than serving.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What a run is configured with.
#[derive(Debug, Args, Default)]
pub(crate) struct Settings {
    /// Configuration file (TOML); every key is optional
    #[arg(long, value_name = "FILE", env = "HORNPIPE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder for queues and definitions
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// AMQP listener; may repeat; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) amqp: Vec<String>,
    /// Management API and health listener; may repeat
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Vec<String>,
    /// Prometheus listener; may repeat
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Vec<String>,
    /// error, warn, info, debug, trace, or directives like info,hornpipe_server=debug
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Open a damaged store and drop what can't be read; the same as --set accept_data_loss=true
    #[arg(long)]
    pub(crate) accept_data_loss: bool,
    /// Any key of the configuration file; may repeat
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print what the configuration comes to, as TOML, and end
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask a running broker whether it serves; exit code 0 when it does
    Healthcheck {
        /// What to ask; default: the health page of the HTTP listener in the configuration
        #[arg(long)]
        url: Option<String>,
        /// Seconds to wait for the answer
        #[arg(long, default_value_t = 5)]
        timeout: u64,
    },
    /// Look after the store of a stopped broker, or have a running one make a snapshot
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a password's hash as definition files hold it
    HashPassword {
        /// The password; read from standard input when missing
        password: Option<String>,
        /// The slow hash instead of RabbitMQ's, for hashing_algorithm = "hornpipe_password_hashing_argon2id"
        #[arg(long)]
        argon2id: bool,
    },
}

/// What is done with a store. DIR is a data folder.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Check every checksum and reference of a stopped broker's store; exit code 0 whole, 3 damaged, 1 can't be checked
    Verify {
        /// The data folder
        dir: PathBuf,
        /// Name every queue, not only those that are hurt
        #[arg(long)]
        all: bool,
    },
    /// Write a stopped broker's store anew, without what is dead in it
    Compact {
        /// The data folder
        dir: PathBuf,
    },
    /// Write a stopped broker's definitions and messages to a file of JSON lines
    Export {
        /// The data folder
        dir: PathBuf,
        /// The file, which must not be there; - is standard output
        file: PathBuf,
    },
    /// Make a data folder from an export
    Import {
        /// The file; - is standard input
        file: PathBuf,
        /// The data folder, which must hold no store
        dir: PathBuf,
    },
    /// Have a running broker copy its store, as of one moment, to a new folder on its machine
    Snapshot {
        /// The folder: an absolute path, empty or not there
        dir: PathBuf,
        /// The broker's HTTP listener; default: the one in the configuration
        #[arg(long)]
        url: Option<String>,
        /// Who asks, an administrator
        #[arg(long, default_value = "guest")]
        user: String,
        /// The password; better given as HORNPIPE_SNAPSHOT_PASSWORD than seen in the list of processes
        #[arg(long, env = "HORNPIPE_SNAPSHOT_PASSWORD", default_value = "guest", hide_env_values = true)]
        password: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn listeners_repeat() {
        let cli =
            Cli::parse_from(["hornpipe", "--amqp", "[::]:5672", "--amqp", "127.0.0.1:0", "--set", "heartbeat=10"]);
        assert_eq!(cli.settings.amqp, ["[::]:5672", "127.0.0.1:0"]);
        assert_eq!(cli.settings.set, ["heartbeat=10"]);
        assert!(cli.command.is_none());
    }
}
