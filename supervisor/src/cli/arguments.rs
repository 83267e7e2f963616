//! The command line as written, with the help that is its manual.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};

use super::salvage::SalvageCommand;
use crate::cluster::Address;
use crate::up;

const LONG_ABOUT: &str = "\
Holdfast keeps a self-hosted chat cluster online: it watches chat nodes, balancer and Redis, acts when one of them fails, tells people \
what it did and why, keeps backups that are proven to restore, and rehearses disasters.

`holdfast supervise` is the daemon; `holdfast up` runs a whole cluster on this machine to try things on; the other commands talk to a \
running daemon.";

const AFTER_HELP: &str = "\
Finding the supervisor:
  The address comes from --server, else HOLDFAST_SERVER, else the key `server` of the first of these files that exists:
  .holdfast/latest/client.toml (a cluster of `holdfast up` in this folder), ~/.config/holdfast/client.toml, /etc/holdfast/client.toml.
  The operator token, needed by whatever changes something: --token-file, else HOLDFAST_TOKEN_FILE, else the file's key `token_file`.

Exit codes:
  0  done; for a drill: passed
  1  failed, or refused by the supervisor
  2  the command line or a settings file is wrong
  3  a drill ended with another verdict than `pass`

Examples:
  holdfast up                                    a whole cluster on this machine
  holdfast status                                how is everything?
  holdfast events follow                         what is happening, as it happens
  holdfast drain chatnode-2                      no new connections for it
  holdfast failover --to 10.0.0.22:6379          move the Redis primary
  holdfast backup && holdfast backup list        take a backup, see what there is
  holdfast drill run redis-primary-crash         rehearse, print the report
  holdfast --json status | jq .problems          the same for scripts";

/// Keeps a self-hosted chat cluster online
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, long_about = LONG_ABOUT, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Address of the supervisor, `http://host:port`
    #[arg(
        long = "server",
        global = true,
        value_name = "URL",
        env = "HOLDFAST_SERVER",
        help_heading = "Supervisor"
    )]
    pub(super) supervisor: Option<String>,
    /// File with the operator token, one line
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "HOLDFAST_TOKEN_FILE",
        help_heading = "Supervisor"
    )]
    pub(super) token_file: Option<PathBuf>,
}

/// Which Redis a command is about.
#[derive(Debug, Clone, Args)]
pub(super) struct Which {
    /// Name of the Redis, where the supervisor looks after several
    #[arg(long)]
    name: Option<String>,
}

impl Which {
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a whole cluster on this machine, to try things on
    #[command(
        long_about = "Starts Redis (a primary and replicas), chat nodes, the balancer and the supervisor with generated settings, shows \
            where everything is and what happens, starts again what crashes, and stops everything on Ctrl-C. A mail server and a webhook \
            receiver are played by this program; what they get is shown and kept. Nothing is left running, even if this program is killed.",
        after_help = "Examples:\n  \
            holdfast up                                     three chat nodes, a Redis primary, two replicas\n  \
            holdfast up --ports free --exit-after 30s       anywhere, for a script\n  \
            holdfast up --scenario redis-primary-crash      kill the Redis primary under load and count what is lost"
    )]
    Up(up::Options),
    /// Run the supervisor (the daemon)
    #[command(
        after_help = "deploy/config/holdfast.toml shows every key of the settings. SIGTERM ends it in order."
    )]
    Supervise {
        /// Settings file
        #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/holdfast.toml")]
        config: PathBuf,
        /// Check the settings and the rule files, and exit: 0 if they are good, 2 if not
        #[arg(long)]
        check_config: bool,
    },
    /// Show how the cluster is doing
    Status,
    /// List what is scraped, and how that goes
    Targets {
        /// Only those that are not up
        #[arg(long)]
        down: bool,
    },
    /// Show which metrics and labels have the most series
    Cardinality {
        /// Entries of each list
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show what happened and why
    #[command(after_help = "Examples:\n  \
            holdfast events                            the last 50\n  \
            holdfast events list --subject redis/main  about Redis only\n  \
            holdfast events show 42                    one, with all its reasons\n  \
            holdfast events follow                     as they happen")]
    Events {
        #[command(subcommand)]
        command: Option<EventsCommand>,
    },
    /// Show incidents
    Incidents {
        #[command(subcommand)]
        command: Option<IncidentsCommand>,
    },
    /// Take a chat node out of service: it keeps its connections and gets no new ones
    #[command(
        after_help = "It stays out until `holdfast ready SERVER`; the supervisor's own circuits do not bring it back."
    )]
    Drain {
        /// Name of the server, as `holdfast status` shows it
        server: String,
        /// Do it even if a guard forbids it
        #[arg(long)]
        force: bool,
    },
    /// Give a chat node another share of the new connections
    Weight {
        /// Name of the server
        server: String,
        /// 0 (none) to 256
        #[arg(value_parser = clap::value_parser!(u16).range(0..=256))]
        weight: u16,
        /// Do it even if a guard forbids it
        #[arg(long)]
        force: bool,
    },
    /// Bring a chat node back into service
    Ready {
        /// Name of the server
        server: String,
    },
    /// Move the Redis primary to a replica
    #[command(
        long_about = "A planned switchover if the primary is alive: writes pause for some milliseconds and nothing is lost. A failover to \
            the best replica if it is dead. Without --to the supervisor picks the best candidate."
    )]
    Failover {
        #[command(flatten)]
        which: Which,
        /// The wanted primary
        #[arg(long, value_name = "HOST:PORT")]
        to: Option<Address>,
        /// Later: HH:MM or "YYYY-MM-DD HH:MM" in local time, or RFC 3339
        #[arg(long, value_name = "TIME", value_parser = super::redis::time)]
        at: Option<DateTime<Utc>>,
        /// Forget the switchover that was set for later
        #[arg(long, conflicts_with_all = ["to", "at"])]
        cancel: bool,
    },
    /// Have the supervisor change nothing about Redis by itself for a while
    #[command(
        long_about = "No failover, no repair and no hand-over by itself until the pause ends; it watches and alerts as before, and does what \
            it is asked for. The pause outlives a restart of the supervisor."
    )]
    Pause {
        #[command(flatten)]
        which: Which,
        /// Why, for whoever wonders
        #[arg(long)]
        reason: String,
        /// How long, such as 2h or 30m; without it until `holdfast resume`
        #[arg(long = "for", value_name = "DURATION", value_parser = holdfast_settings::duration::parse)]
        limit: Option<std::time::Duration>,
    },
    /// End a pause
    Resume(Which),
    /// Agree to the failover that waits for approval
    Approve(Which),
    /// End the cool-down after a failover: you have seen to its cause
    Acknowledge(Which),
    /// Restart the Redis servers one by one, or see to what was saved of a former primary
    #[command(after_help = "Examples:\n  \
            holdfast redis restart --rolling               replicas first, then the primary after a switchover\n  \
            holdfast redis salvage list                    what former primaries had that nobody else has\n  \
            holdfast redis salvage replay ID               what a replay would do\n  \
            holdfast redis salvage replay ID --apply       do it")]
    Redis {
        #[command(flatten)]
        which: Which,
        #[command(subcommand)]
        command: RedisCommand,
    },
    /// Take a backup of Redis, or list the backups
    #[command(
        long_about = "Takes a snapshot over the replication protocol from a replica, compresses it, and restores it into a scratch server \
            to prove that it can be."
    )]
    Backup {
        #[command(subcommand)]
        command: Option<BackupCommand>,
    },
    /// Restore a backup into a Redis server
    #[command(
        long_about = "Loads a backup into a Redis server, which is a primary afterwards. Reads the backup's files on this machine and needs \
            no running supervisor. The whole backup is checked before the server is touched, and a server that has keys or follows a \
            primary is refused unless told otherwise.",
        after_help = "Examples:\n  \
            holdfast restore --config /etc/holdfast/holdfast.toml --to 127.0.0.1:7000\n  \
            holdfast restore --dir /var/backups/holdfast --backup <ID> --to 127.0.0.1:7000 --overwrite\n  \
            holdfast restore --to redis-1:6379 --username restore --password-file pw --tls-ca-file ca.pem \\\n    \
            --tls-certificate-file op.pem --tls-key-file op.key"
    )]
    Restore(Restore),
    /// Form or change the group of supervisors, or show it
    #[command(
        long_about = "Three or five supervisors form a group: one leads and acts, the others watch, agree, and take over within half a \
            second. Each has a [group] section in its settings. docs/group.md explains how many are needed and what a minority does.",
        after_help = "Examples:\n  \
            holdfast group init                             at the first supervisor\n  \
            holdfast group join 10.0.0.11:9096              at each other one: the address of any member\n  \
            holdfast group leave supervisor-2               take a member out, also one that is dead"
    )]
    Group {
        #[command(subcommand)]
        command: super::group::GroupCommand,
    },
    /// Keep alerts from being told for a while
    #[command(after_help = "Examples:\n  \
            holdfast silence add NodeDown server=chatnode-2 --for 2h --comment \"new disk\"")]
    Silence {
        #[command(subcommand)]
        command: super::group::SilenceCommand,
    },
    /// Rehearse a disaster
    #[command(
        after_help = "Scenarios: chatnode-crash, redis-primary-crash, slow-upstream. docs/drills.md explains what is measured.\n\n\
            Examples:\n  \
            holdfast drill run redis-primary-crash     run it, wait, print the report; exit code 3 unless it passed\n  \
            holdfast drill show RUN                    the report of a run\n  \
            holdfast drill abort                       stop the present run and undo its fault"
    )]
    Drill {
        #[command(subcommand)]
        command: DrillCommand,
    },
    /// Check the supervisor's settings and everything they name
    CheckConfig {
        /// Settings file
        #[arg(value_name = "FILE", default_value = "/etc/holdfast/holdfast.toml")]
        config: PathBuf,
    },
    /// Print a connection token for a chat user
    #[command(
        long_about = "Prints a JSON Web Token (HS256) with which any Centrifuge client connects as the user. The secret is that of the \
            chat nodes. For tests and tools; in production your application makes these tokens."
    )]
    Token {
        /// The user's name
        #[arg(long, value_name = "NAME")]
        user: String,
        /// File with the chat nodes' secret; default: that of the cluster `holdfast up` runs in this folder
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// How long the token is good for
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = holdfast_settings::duration::parse)]
        lifetime: std::time::Duration,
    },
    /// Chat in this terminal: lines are sent, what others send is shown
    Chat {
        /// Who to be
        #[arg(long, value_name = "NAME")]
        user: String,
        /// Where
        #[arg(long, value_name = "NAME", default_value = "lobby")]
        channel: String,
        /// WebSocket address; default: that of the cluster `holdfast up` runs in this folder
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// File with the chat nodes' secret; default: as above
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum RedisCommand {
    /// Restart all servers, one after the other, and wait for it
    #[command(
        long_about = "Restarts each replica and waits until it follows and has caught up; then the primary hands over and is restarted as \
            the replica it is by then. Stops at the first problem and says what is left. How a server is restarted is set in \
            [redis.restart]."
    )]
    Restart(Restart),
    /// Commands of former primaries that never reached the present one
    Salvage {
        #[command(subcommand)]
        command: SalvageCommand,
    },
}

#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Restart {
    /// One server after the other: the only way there is
    #[arg(long, required_unless_present_any = ["resume", "stop"])]
    pub(super) rolling: bool,
    /// Take up what one that stopped has left
    #[arg(long, conflicts_with_all = ["rolling", "stop"])]
    pub(super) resume: bool,
    /// Stop the one that goes on
    #[arg(long, conflicts_with_all = ["rolling", "resume"])]
    pub(super) stop: bool,
    /// Do it even if fewer replicas stay meanwhile than are needed
    #[arg(long, requires = "rolling")]
    pub(super) force: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum EventsCommand {
    /// The latest events, oldest first
    List(EventFilter),
    /// One event with its reasons and figures
    Show {
        /// Its number
        id: u64,
    },
    /// Events as they happen, until Ctrl-C
    Follow {
        #[command(flatten)]
        filter: EventFilter,
        /// Begin after this event
        #[arg(long, value_name = "ID")]
        since: Option<u64>,
    },
}

#[derive(Debug, Clone, Default, Args)]
pub(super) struct EventFilter {
    /// Only about this subject, such as chatnode-1 or redis/main
    #[arg(long)]
    pub(super) subject: Option<String>,
    /// Only of this kind, such as `action_taken`
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Only of this incident
    #[arg(long, value_name = "ID")]
    pub(super) incident: Option<u64>,
    /// At most this many [default: 50]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum IncidentsCommand {
    /// The latest incidents, newest first
    List {
        /// Only those that go on
        #[arg(long)]
        open: bool,
    },
    /// One incident with its events
    Show {
        /// Its number
        id: u64,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum BackupCommand {
    /// Take one now and wait for it (the default)
    Take,
    /// The backups there are, newest first
    List,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Which backup; default: the newest that is verified
    #[arg(long, value_name = "ID")]
    pub(super) backup: Option<String>,
    /// The Redis server to restore into
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) to: Address,
    /// Folder of the backups; default: what the settings say
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Name of the Redis cluster in the folder; default: what the settings say, else `main`
    #[arg(long, value_name = "NAME")]
    pub(super) cluster: Option<String>,
    /// The supervisor's settings, for the two above; default: those of `holdfast up` in this folder, else /etc/holdfast/holdfast.toml
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Replace what the server has, also if it follows a primary
    #[arg(long)]
    pub(super) overwrite: bool,
    /// ACL user of the server
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub(super) username: Option<String>,
    /// File with the server's password
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// Speak TLS with the server, and believe these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    pub(super) tls_ca_file: Option<PathBuf>,
    /// Our certificate (PEM), for the server when we ask it and when it comes for the data; needed if it has `tls-auth-clients` or
    /// `tls-replication`, and valid as a client's and as a server's
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca_file", "tls_key_file"])]
    pub(super) tls_certificate_file: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate_file")]
    pub(super) tls_key_file: Option<PathBuf>,
    /// Name on the server's certificate; default: the host of `--to`
    #[arg(long, value_name = "NAME", requires = "tls_ca_file")]
    pub(super) tls_server_name: Option<String>,
    /// Our address as the server reaches it; default: the one we reach the server from
    #[arg(long, value_name = "IP")]
    pub(super) bind: Option<std::net::IpAddr>,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum DrillCommand {
    /// Run a scenario, wait for its end, print the report
    Run {
        /// `chatnode-crash`, `redis-primary-crash` or `slow-upstream`
        scenario: String,
        /// Only start it and print the run's identifier
        #[arg(long)]
        no_wait: bool,
    },
    /// The scenarios, what runs now and what runs next
    List,
    /// The report of a run
    Show {
        /// Its identifier
        run: String,
    },
    /// Stop the present run and undo its fault
    Abort,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_for_the_supervisor_may_stand_anywhere() {
        let cli =
            Cli::try_parse_from(["holdfast", "drain", "a", "--server", "http://b:1", "--json"]);
        let global = cli.unwrap().global;
        assert_eq!((global.supervisor.as_deref(), global.json), (Some("http://b:1"), true));
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in ["weight a 257", "failover --to nowhere", "token", "up --exit-after 5"] {
            let words = ["holdfast"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
