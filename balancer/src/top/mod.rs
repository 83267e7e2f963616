//! `holdfast-balancer top`: a running balancer in the terminal.
//!
//! It asks `/api/v1/stats` again and again and shows what changed between two answers as rates; what there is to see is put together in
//! `view`, which is pure. With `--once` two answers are shown as plain text, for scripts.

mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{cursor, execute, queue};
use tokio::runtime::{Builder, Runtime};

use crate::client::{Client, ClientError, Running};
use crate::figures::Figures;
use view::{Order, Style};

/// A screen without a size is that of a script.
const WIDTH: usize = 132;
const PATH: &str = "/api/v1/stats";

/// What it is asked for on the command line.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    running: Running,
    /// Time between two looks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = holdfast_settings::duration::parse)]
    interval: Duration,
    /// What servers are sorted by.
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Look twice, print once, and end.
    #[arg(long)]
    once: bool,
}

/// Why it has ended.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There is no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no terminal, or it is gone.
    #[error("write to the terminal")]
    Terminal(#[from] io::Error),
    /// There is one, but nothing to show it with.
    #[error("not a terminal; --once prints without one")]
    NoTerminal,
}

/// Shows a running balancer until somebody presses `q`.
///
/// # Errors
/// It cannot be asked, or there is nowhere to show it.
pub fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(&arguments.running)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if arguments.once {
        return Ok(once(&runtime, &client, arguments)?);
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal.into());
    }
    let _screen = Screen::enter()?;
    Ok(watch(&runtime, &client, arguments)?)
}

fn once(runtime: &Runtime, client: &Client, arguments: &Arguments) -> Result<(), TopError> {
    let (before, now) = runtime.block_on(async {
        let before: Figures = client.get(PATH).await?;
        tokio::time::sleep(arguments.interval).await;
        Ok::<_, ClientError>((before, client.get(PATH).await?))
    })?;
    let mut out = io::stdout().lock();
    for line in view::lines(Some(&before), &now, arguments.sort, WIDTH) {
        writeln!(out, "{}", line.text)?;
    }
    Ok(())
}

fn watch(runtime: &Runtime, client: &Client, arguments: &Arguments) -> Result<(), TopError> {
    let mut order = arguments.sort;
    let mut before: Option<Figures> = None;
    loop {
        let now: Result<Figures, ClientError> = runtime.block_on(client.get(PATH));
        let trouble =
            now.as_ref().err().map(|error| holdfast_telemetry::errors::Chain(error).to_string());
        let shown = now.ok();
        loop {
            draw(before.as_ref(), shown.as_ref(), trouble.as_deref(), order)?;
            // A key redraws at once, the end of the interval asks again.
            if !event::poll(arguments.interval)? {
                break;
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if control => return Ok(()),
                    KeyCode::Char('s') => order = order.next(),
                    _ => {}
                }
            }
        }
        before = shown.or(before);
    }
}

fn draw(
    before: Option<&Figures>,
    now: Option<&Figures>,
    trouble: Option<&str>,
    order: Order,
) -> io::Result<()> {
    let (width, height) = size().map_or((WIDTH, 50), |(w, h)| (usize::from(w), usize::from(h)));
    let mut out = io::stdout().lock();
    queue!(out, cursor::MoveTo(0, 0))?;
    let mut lines = match (now, before) {
        (Some(now), before) => view::lines(before, now, order, width),
        // What was seen last is better than nothing.
        (None, Some(last)) => view::lines(None, last, order, width),
        (None, None) => Vec::new(),
    };
    if let Some(trouble) = trouble {
        lines.insert(0, view::trouble(trouble, width));
    }
    for line in lines.iter().take(height.saturating_sub(1)) {
        let (begin, end) = line.style.codes();
        queue!(out, Clear(ClearType::CurrentLine))?;
        write!(out, "{begin}{}{end}\r\n", line.text)?;
    }
    queue!(out, Clear(ClearType::FromCursorDown))?;
    write!(out, "{}", Style::Dim.paint(&format!("q quit   s sort (by {})", order.name())))?;
    out.flush()
}

/// The terminal in our hands; given back however we end.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}
