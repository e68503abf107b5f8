//! Who may ask for what: host names, origins, tokens, scopes, tenants, rates, and the headers that
//! keep browsers from doing more with an answer than show it.
//!
//! Without tokens everybody who reaches the port may do everything, which is why the service listens
//! on loopback unless there are tokens. A web page reaches loopback too: it is told by the name in
//! `Host` (its own, when DNS rebinding pointed it here) or by its `Origin`.
//!
//! Tokens are random and long, so their bare SHA-256 is kept, as RFC 6750 leaves open; what is
//! compared takes the same time whatever it is compared with.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::server::Response;
use crate::error::{Error, Result};
use crate::model::AgentPerformanceModel;
use crate::outcome::{NAME_BYTES_MAX, tidy};

/// Most tokens in a file: each is compared with what a request carries.
const TOKENS_MAX: usize = 1_000;
/// Largest file of tokens, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a token, in bytes.
const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Longest request id that is taken over, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What answers that are no pages allow: nothing.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
/// What pages of ours may load: what we serve.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                           img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

/// What a token allows; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Ask for agents, see what was learned.
    Read,
    /// Report outcomes.
    Ingest,
    /// Save, activate, see and replay dead letters.
    Admin,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Read, Self::Ingest, Self::Admin];

    /// Its name in the file of tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Ingest => "ingest",
            Self::Admin => "admin",
        }
    }
}

/// What a request needs to be answered where there are tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// No token: it says nothing of what was learned.
    Nothing,
    /// A token of at least this scope, whatever its tenant.
    Scope(Scope),
    /// A token of at least this scope that has no tenant: the answer, or what it does, covers all tenants.
    AllTenants(Scope),
    /// A token of at least this scope when the query asks for more than is told to everybody.
    Asked(Scope),
}

impl Need {
    /// What is needed by a request with or without a query.
    pub(super) fn with(self, query: Option<&str>) -> Self {
        if matches!(self, Self::Asked(_)) && query.is_none() { Self::Nothing } else { self }
    }

    /// Whether it takes somebody who runs the service.
    pub(super) fn is_admin(self) -> bool {
        matches!(self, Self::Scope(Scope::Admin) | Self::AllTenants(Scope::Admin))
    }
}

/// Requests per second and token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// In the long run; greater than 0.
    pub per_second: f64,
    /// At once, after a pause; at least 1.
    pub burst: f64,
}

/// How access is configured.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "config::OPTIONS describes them")]
pub struct AccessOptions {
    pub tokens_file: Option<PathBuf>,
    pub insecure: bool,
    pub hosts: Hosts,
    pub rate: Option<Rate>,
}

/// Names under which the service may be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Hosts {
    listen: IpAddr,
    /// As it was written, which may be a name.
    listen_name: String,
    /// Further ones. What pages they serve on the usual ports are ours.
    names: BTreeSet<String>,
}

impl Hosts {
    /// Those of a service that listens on `listen`, written as `listen_name`, and these further
    /// `names`.
    pub fn new(listen: IpAddr, listen_name: &str, names: impl IntoIterator<Item = String>) -> Self {
        Self {
            listen,
            listen_name: listen_name.to_ascii_lowercase(),
            names: names.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a `Host` field names this service. An address literal can't be rebound to another
    /// address, so any will do where the service listens on all.
    fn allow(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name == "localhost" || name == self.listen_name || self.names.contains(&name) {
            return true;
        }
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let Ok(address) = literal.unwrap_or(&name).parse::<IpAddr>() else { return false };
        let address = address.to_canonical();
        address.is_loopback()
            || address == self.listen.to_canonical()
            || self.listen.is_unspecified()
    }

    /// Whether an `Origin` field names a page of this service: the very authority that was asked,
    /// or, behind a proxy that changes `Host`, an allowed name on the default port.
    fn own(&self, origin: &str, host: &str) -> bool {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| {
            authority.eq_ignore_ascii_case(host)
                || self.names.contains(&authority.to_ascii_lowercase())
        })
    }
}

/// The name in a `Host` field; `None` when there is something else where the port should be.
fn without_port(host: &str) -> Option<&str> {
    let name_end = if host.starts_with('[') { host.find(']')? + 1 } else { 0 };
    let port = name_end + host[name_end..].find(':').unwrap_or(host.len() - name_end);
    let (name, rest) = host.split_at(port);
    let is_port = rest.is_empty() || rest[1..].bytes().all(|byte| byte.is_ascii_digit());
    (is_port && !name.is_empty()).then_some(name)
}

/// One line of the file of tokens.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) name: String,
    scope: Scope,
    tenant: Option<String>,
    digest: [u8; 32],
    bucket: Mutex<Bucket>,
}

/// A token bucket: what may be asked at once, and when that was worked out.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Takes one, or says how long to wait for it.
    fn take(&mut self, rate: Rate, now: Instant) -> std::result::Result<(), Duration> {
        self.left = match self.at {
            None => rate.burst,
            Some(at) => {
                let gained = now.saturating_duration_since(at).as_secs_f64() * rate.per_second;
                (self.left + gained).min(rate.burst)
            }
        };
        self.at = Some(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::try_from_secs_f64((1.0 - self.left) / rate.per_second)
            .unwrap_or(Duration::MAX))
    }
}

/// The tokens of a file.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Arc<Token>>);

impl Tokens {
    /// Reads lines of `name, scope, tenant, sha256`; blank ones and those that begin with `#` are
    /// skipped. An empty tenant or `*` means all.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut tokens: Vec<Arc<Token>> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = Token::parse(line).map_err(|why| format!("line {number}: {why}"))?;
            if tokens.iter().any(|known| known.name == token.name) {
                return Err(format!("line {number}: the name {:?} is used twice", token.name));
            }
            if tokens.iter().any(|known| known.digest == token.digest) {
                return Err(format!("line {number}: the token is another line's, too"));
            }
            if tokens.len() == TOKENS_MAX {
                return Err(format!("there are more than {TOKENS_MAX} tokens"));
            }
            tokens.push(Arc::new(token));
        }
        if tokens.is_empty() {
            return Err("there is no token in it".to_owned());
        }
        Ok(Self(tokens))
    }

    fn read(file: &std::path::Path) -> std::result::Result<Self, String> {
        let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
        if size > FILE_BYTES_MAX {
            return Err(format!("it has {size} bytes, allowed are {FILE_BYTES_MAX}"));
        }
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    /// The token that was presented. All are compared, each in full.
    fn find(&self, presented: &str) -> Option<&Arc<Token>> {
        let digest = Sha256::digest(presented);
        let mut found = None;
        for token in &self.0 {
            let equal: Choice = token.digest[..].ct_eq(&digest[..]);
            if bool::from(equal) {
                found = Some(token);
            }
        }
        found
    }

    /// Who asked much stays who asked much.
    fn keep_buckets(&self, old: &Self) {
        for token in &self.0 {
            if let Some(known) = old.0.iter().find(|known| known.digest == token.digest) {
                *token.bucket.lock() = *known.bucket.lock();
            }
        }
    }
}

impl Token {
    fn parse(line: &str) -> std::result::Result<Self, String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [name, scope, tenant, digest] = fields[..] else {
            return Err(format!(
                "has {} fields, allowed is name, scope, tenant, sha256",
                fields.len()
            ));
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=TOKEN_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_plain) {
            return Err(format!(
                "the name is {name:?}, allowed are 1 to {TOKEN_NAME_BYTES_MAX} letters, digits, \
                 dots, dashes, underscores"
            ));
        }
        let known = Scope::ALL.into_iter().find(|known| known.as_str() == scope);
        let scope = known
            .ok_or_else(|| format!("the scope is {scope:?}, allowed are read, ingest and admin"))?;
        let tenant = Some(tidy(tenant)).filter(|tenant| !["", "*"].contains(&&**tenant));
        let tenant = tenant.map(Cow::into_owned);
        if tenant.as_ref().is_some_and(|tenant| tenant.len() > NAME_BYTES_MAX) {
            return Err(format!("the tenant has more than {NAME_BYTES_MAX} bytes"));
        }
        // What is wrong with it is not shown: it may be the token itself.
        let digest = sha256(digest).ok_or("the sha256 is not 64 hexadecimal digits")?;
        Ok(Self { name: name.to_owned(), scope, tenant, digest, bucket: Mutex::default() })
    }
}

fn sha256(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, place) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[place..place + 2], 16).ok()?;
    }
    Some(digest)
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller(Option<Arc<Token>>);

impl Caller {
    /// The caller's tenant; `None` when it may name any.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.0.as_ref()?.tenant.as_deref()
    }

    /// What the caller may: everything where there are no tokens.
    pub(super) fn scope(&self) -> Scope {
        self.0.as_ref().map_or(Scope::Admin, |token| token.scope)
    }

    /// Refuses a caller who may see one tenant only.
    pub(super) fn of_all_tenants(&self) -> std::result::Result<(), Denied> {
        if self.tenant().is_some() { Err(Denied::AllTenants) } else { Ok(()) }
    }

    /// The tenant to answer for, when the request names this one.
    pub(super) fn tenant_or<'a>(
        &'a self,
        named: Option<&'a str>,
    ) -> std::result::Result<Option<&'a str>, Denied> {
        match (self.tenant(), named) {
            (Some(own), Some(named)) if own != named => Err(Denied::Tenant(named.to_owned())),
            (Some(own), _) => Ok(Some(own)),
            (None, named) => Ok(named),
        }
    }

    /// The number by which the caller tells a model from another: of the last journal entry that it has
    /// learned. That tells how much others report: of a caller with a tenant it is the number of the
    /// tenant's outcomes in it.
    pub(super) fn version_of(&self, model: &AgentPerformanceModel) -> u64 {
        match self.tenant() {
            None => model.sequence(),
            Some(tenant) => model.tenant(tenant).map_or(0, |tenant| tenant.total().executions),
        }
    }

    /// For the log.
    pub(super) fn name(&self) -> &str {
        self.0.as_ref().map_or("-", |token| &token.name)
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denied {
    Host(String),
    Origin(String),
    NoToken,
    UnknownToken,
    Scope { has: Scope, needs: Scope },
    Tenant(String),
    AllTenants,
    Rate(Duration),
}

/// What [`Denied::reason`] may say.
pub(super) const REASONS: [&str; 8] =
    ["host", "origin", "no_token", "unknown_token", "scope", "tenant", "all_tenants", "rate"];

impl Denied {
    /// The reason, of which there are few.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Origin(_) => "origin",
            Self::NoToken => "no_token",
            Self::UnknownToken => "unknown_token",
            Self::Scope { .. } => "scope",
            Self::Tenant(_) => "tenant",
            Self::AllTenants => "all_tenants",
            Self::Rate(_) => "rate",
        }
    }
}

impl From<Denied> for Response {
    fn from(denied: Denied) -> Self {
        let shown = |text: &str| text.chars().take(200).collect::<String>();
        let challenge = |response: Self, more: &str| {
            let value = format!("Bearer realm=\"online-learning\"{more}");
            response.with_header("www-authenticate", value)
        };
        match denied {
            Denied::Host(host) => Self::problem(
                403,
                format!("the host {:?} is not this service; ALLOWED_HOSTS adds it", shown(&host)),
            ),
            Denied::Origin(origin) => Self::problem(
                403,
                format!("pages of {:?} may not ask this service", shown(&origin)),
            ),
            Denied::NoToken => {
                let detail = "a token is needed: Authorization: Bearer TOKEN";
                challenge(Self::problem(401, detail), "")
            }
            Denied::UnknownToken => {
                challenge(Self::problem(401, "the token is not known"), ", error=\"invalid_token\"")
            }
            Denied::Scope { has, needs } => {
                let (has, needs) = (has.as_str(), needs.as_str());
                let detail = format!("the token's scope is {has}, needed is {needs}");
                let more = format!(", error=\"insufficient_scope\", scope=\"{needs}\"");
                challenge(Self::problem(403, detail), &more)
            }
            Denied::Tenant(named) => Self::problem(
                403,
                format!("the token is not one of the tenant {:?}", shown(&named)),
            ),
            Denied::AllTenants => Self::problem(
                403,
                "this covers all tenants: a token without a tenant of its own is needed",
            ),
            Denied::Rate(wait) => {
                let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
                Self::problem(429, "the token asks more often than RATE_LIMIT allows")
                    .with_header("retry-after", seconds.max(1).to_string())
            }
        }
    }
}

/// Decides on every request.
#[derive(Debug)]
pub struct Access {
    options: AccessOptions,
    /// `None` without a file.
    tokens: RwLock<Option<Arc<Tokens>>>,
}

impl Access {
    /// Reads the tokens, where a file of them is named.
    ///
    /// # Errors
    /// [`Error::Config`] when it can't be read or a line is wrong.
    pub fn open(options: &AccessOptions) -> Result<Self> {
        let tokens = read_tokens(options)?.map(Arc::new);
        Ok(Self { options: options.clone(), tokens: RwLock::new(tokens) })
    }

    /// Reads the tokens again; returns how many there are, `None` without a file.
    ///
    /// # Errors
    /// As [`Access::open`]; the tokens from before stay.
    pub fn reload(&self) -> Result<Option<usize>> {
        let Some(tokens) = read_tokens(&self.options)? else { return Ok(None) };
        let count = tokens.0.len();
        let mut current = self.tokens.write();
        if let Some(old) = &*current {
            tokens.keep_buckets(old);
        }
        *current = Some(Arc::new(tokens));
        Ok(Some(count))
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.current().map_or(0, |tokens| tokens.0.len())
    }

    fn current(&self) -> Option<Arc<Tokens>> {
        self.tokens.read().clone()
    }

    /// Refuses what a browser sends for somebody else. Browsers always name a host; clients of
    /// HTTP/1.0 need not.
    pub(super) fn check_browser(
        &self,
        host: Option<&str>,
        origin: Option<&str>,
    ) -> std::result::Result<(), Denied> {
        let hosts = &self.options.hosts;
        if let Some(host) = host
            && !hosts.allow(host)
        {
            return Err(Denied::Host(host.to_owned()));
        }
        match origin {
            Some(origin) if !hosts.own(origin, host.unwrap_or_default()) => {
                Err(Denied::Origin(origin.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Who asks, if that is enough for what is needed.
    pub(super) fn authorize(
        &self,
        authorization: Option<&str>,
        need: Need,
        now: Instant,
    ) -> std::result::Result<Caller, Denied> {
        let (scope, all_tenants) = match need {
            Need::Nothing => return Ok(Caller::default()),
            Need::Scope(scope) | Need::Asked(scope) => (scope, false),
            Need::AllTenants(scope) => (scope, true),
        };
        let Some(tokens) = self.current() else { return Ok(Caller::default()) };
        let presented = authorization.and_then(bearer).ok_or(Denied::NoToken)?;
        let token = tokens.find(presented).ok_or(Denied::UnknownToken)?;
        if let Some(rate) = self.options.rate {
            token.bucket.lock().take(rate, now).map_err(Denied::Rate)?;
        }
        if token.scope < scope {
            return Err(Denied::Scope { has: token.scope, needs: scope });
        }
        if all_tenants && token.tenant.is_some() {
            return Err(Denied::AllTenants);
        }
        Ok(Caller(Some(token.clone())))
    }
}

fn read_tokens(options: &AccessOptions) -> Result<Option<Tokens>> {
    let Some(file) = &options.tokens_file else { return Ok(None) };
    Tokens::read(file).map(Some).map_err(|why| {
        Error::Config(format!("AUTH_TOKENS_FILE (--auth-tokens-file) {}: {why}", file.display()))
    })
}

/// The token of an `Authorization` field (RFC 6750, section 2.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The id that a client gave its request, if it can stand in logs and JSON as it is.
pub(super) fn sane_request_id(given: Option<&str>) -> Option<&str> {
    let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/+=@-".contains(&byte);
    given.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_sane))
}

/// Adds what every answer carries: the request's id, also to a problem's document, and what keeps
/// browsers from more than showing it. `id` must be a [`sane_request_id`] or an id of ours.
pub(super) fn finished(mut response: Response, id: &str) -> Response {
    let media = header(&response, "content-type").unwrap_or_default().to_owned();
    if media.starts_with("application/problem+json") && response.body.ends_with(b"}") {
        response.body.pop();
        response.body.extend_from_slice(format!(",\"request_id\":\"{id}\"}}").as_bytes());
    }
    let policy = if media.starts_with("text/html") { PAGE_POLICY } else { POLICY };
    for (name, value) in [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        if header(&response, name).is_none() {
            response = response.with_header(name, value);
        }
    }
    response.with_header("x-request-id", id.to_owned())
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    let found = response.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| &**value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str) -> Hosts {
        Hosts::new(listen.parse().unwrap(), "here.example", ["Learn.Example.org".to_owned()])
    }

    #[track_caller]
    fn check_host(listen: &str, host: &str, allowed: bool) {
        assert_eq!(hosts(listen).allow(host), allowed, "{host:?} at {listen}");
    }

    #[test]
    fn a_host_is_compared_without_its_port() {
        for own in [
            "localhost",
            "localhost:8000",
            "LOCALHOST:1",
            "localhost.",
            "127.0.0.1:8000",
            "127.8.9.1",
            "[::1]",
            "[::1]:8000",
            "[::ffff:127.0.0.1]:1",
            "learn.example.org",
            "learn.EXAMPLE.org:443",
            "localhost:",
            "here.example:1",
        ] {
            check_host("127.0.0.1", own, true);
        }
        for foreign in [
            "",
            ":8000",
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "192.168.0.7",
            "127.0.0.1.evil.example",
            "localhost:x",
            "localhost:80:80",
            "[::1",
            "[::1]x",
            "[::2]",
            "::1",
            "0.0.0.0",
            "2130706433",
            "0x7f.1",
            "example.org",
            "x.learn.example.org",
        ] {
            check_host("127.0.0.1", foreign, false);
        }
    }

    #[test]
    fn the_address_listened_on_is_a_host_and_any_address_where_it_is_a_wildcard() {
        check_host("192.168.0.7", "192.168.0.7:8000", true);
        check_host("192.168.0.7", "192.168.0.8:8000", false);
        check_host("::ffff:192.168.0.7", "192.168.0.7", true);
        for wildcard in ["0.0.0.0", "::"] {
            check_host(wildcard, "192.168.0.8:8000", true);
            check_host(wildcard, "[fe80::1]:8000", true);
            check_host(wildcard, "evil.example:8000", false);
        }
    }

    #[track_caller]
    fn check_origin(origin: &str, host: &str, own: bool) {
        assert_eq!(hosts("127.0.0.1").own(origin, host), own, "{origin:?} asks {host:?}");
    }

    #[test]
    fn only_pages_of_the_service_itself_may_ask() {
        check_origin("http://localhost:8000", "localhost:8000", true);
        check_origin("https://learn.example.org", "learn.example.org", true);
        // A proxy has changed the host.
        check_origin("https://learn.example.org", "127.0.0.1:8000", true);
        check_origin("https://learn.example.org:3000", "127.0.0.1:8000", false);
        check_origin("http://localhost:3000", "localhost:8000", false);
        check_origin("http://localhost", "localhost:8000", false);
        check_origin("http://127.0.0.1:8000", "localhost:8000", false);
        // Another program on this machine.
        check_origin("http://127.0.0.1", "localhost:8000", false);
        check_origin("http://here.example", "localhost:8000", false);
        check_origin("https://evil.example", "localhost:8000", false);
        check_origin("null", "localhost:8000", false);
        check_origin("", "", false);
        check_origin("file://", "", false);
    }

    /// The SHA-256 of a token, in hexadecimal digits.
    fn hashed(token: &str) -> String {
        crate::outcome::hex(&Sha256::digest(token))
    }

    fn access(lines: &str, rate: Option<Rate>) -> Access {
        let hosts = hosts("127.0.0.1");
        let options = AccessOptions { tokens_file: None, insecure: false, hosts, rate };
        let tokens = Tokens::parse(lines).expect("the lines are right");
        Access { options, tokens: RwLock::new(Some(Arc::new(tokens))) }
    }

    fn three() -> Access {
        access(
            &format!(
                "# name, scope, tenant, sha256\n\nreader, read, *, {}\n red-in,ingest,red,{}\n\
                 root, admin, , {}\n",
                hashed("r-secret"),
                hashed("i-secret"),
                hashed("a-secret").to_uppercase(),
            ),
            None,
        )
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "it is written out in every case")]
    fn check(authorization: Option<&str>, need: Need, expected: std::result::Result<&str, Denied>) {
        let answer = three().authorize(authorization, need, Instant::now());
        assert_eq!(answer.as_ref().map(Caller::name).map_err(Clone::clone), expected);
    }

    #[test]
    fn a_token_gives_its_scope_and_those_below() {
        let (read, ingest, admin) = (Scope::Read, Scope::Ingest, Scope::Admin);
        check(None, Need::Nothing, Ok("-"));
        check(Some("Bearer wrong"), Need::Nothing, Ok("-"));
        check(None, Need::Scope(read), Err(Denied::NoToken));
        for malformed in ["", "Bearer", "Bearer ", "Basic r-secret", "r-secret"] {
            check(Some(malformed), Need::Scope(read), Err(Denied::NoToken));
        }
        check(Some("Bearer wrong"), Need::Scope(read), Err(Denied::UnknownToken));
        check(Some("Bearer r-secret"), Need::Scope(read), Ok("reader"));
        check(Some("bearer  r-secret "), Need::AllTenants(read), Ok("reader"));
        let lacks = |has, needs| Err(Denied::Scope { has, needs });
        check(Some("Bearer r-secret"), Need::Scope(ingest), lacks(read, ingest));
        check(Some("Bearer i-secret"), Need::Scope(ingest), Ok("red-in"));
        check(Some("Bearer i-secret"), Need::AllTenants(admin), lacks(ingest, admin));
        check(Some("Bearer i-secret"), Need::AllTenants(read), Err(Denied::AllTenants));
        check(Some("Bearer a-secret"), Need::AllTenants(admin), Ok("root"));
        // The digest itself is no token.
        let digest = format!("Bearer {}", hashed("a-secret"));
        check(Some(&digest), Need::Scope(read), Err(Denied::UnknownToken));
    }

    #[test]
    fn a_token_with_a_tenant_answers_for_that_one_alone() {
        let caller = three()
            .authorize(Some("Bearer i-secret"), Need::Scope(Scope::Ingest), Instant::now())
            .unwrap();
        assert_eq!(caller.tenant_or(None), Ok(Some("red")));
        assert_eq!(caller.tenant_or(Some("red")), Ok(Some("red")));
        assert_eq!(caller.tenant_or(Some("default")), Err(Denied::Tenant("default".to_owned())));
        assert_eq!(Caller::default().tenant_or(Some("blue")), Ok(Some("blue")));
        assert_eq!(Caller::default().tenant_or(None), Ok(None));
    }

    #[test]
    fn a_wrong_file_is_reported_by_line_and_never_shows_a_token() {
        #[track_caller]
        fn check(text: &str, says: &str) {
            let why = Tokens::parse(text).expect_err(text);
            assert!(why.contains(says) && !why.contains("SECRET"), "{why}");
        }
        let digest = hashed("x");
        check("# nothing", "no token");
        check(&format!("\na, read, {digest}"), "line 2: has 3 fields");
        check(&format!("a b, read, *, {digest}"), "the name is \"a b\"");
        check(&format!("a, write, *, {digest}"), "the scope is \"write\", allowed are read");
        check("a, read, *, SECRET", "the sha256 is not 64 hexadecimal digits");
        check(&format!("a, read, {}, {digest}", "t".repeat(257)), "more than 256 bytes");
        check(&format!("a, read, *, {digest}\na, read, *, {}", hashed("y")), "used twice");
        check(&format!("a, read, *, {digest}\nb, admin, *, {digest}"), "line 2: the token is");
        let many = |n: u32| format!("t{n}, read, *, {}", hashed(&n.to_string()));
        check(&(0..1001).map(many).collect::<Vec<_>>().join("\n"), "more than 1000");
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_the_rate() {
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, at(0)), Ok(()));
        }
        assert_eq!(bucket.take(rate, at(0)), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(rate, at(250)), Err(Duration::from_millis(250)));
        assert_eq!(bucket.take(rate, at(500)), Ok(()));
        assert_eq!(bucket.take(rate, at(500)), Err(Duration::from_millis(500)));
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, at(1_000_000)), Ok(()));
        }
        assert!(bucket.take(rate, at(1_000_000)).is_err(), "no more than the burst is saved up");
    }

    #[test]
    fn each_token_has_a_rate_of_its_own_that_a_reload_keeps() {
        let lines = format!("a, read, *, {}\nb, read, *, {}", hashed("a"), hashed("b"));
        let access = access(&lines, Some(Rate { per_second: 0.001, burst: 1.0 }));
        let now = Instant::now();
        let ask = |token: &str| {
            access
                .authorize(Some(&format!("Bearer {token}")), Need::Scope(Scope::Read), now)
                .is_ok()
        };
        assert!(ask("a") && !ask("a") && ask("b"));
        let renamed = Tokens::parse(&lines.replace("a, read", "c, admin")).unwrap();
        renamed.keep_buckets(&access.current().unwrap());
        *access.tokens.write() = Some(Arc::new(renamed));
        assert!(!ask("a"));
    }

    #[test]
    fn a_request_id_is_taken_over_only_when_it_is_harmless() {
        assert_eq!(sane_request_id(Some("a-1:b/c=d")), Some("a-1:b/c=d"));
        let long = "x".repeat(129);
        for bad in [None, Some(""), Some("a b"), Some("a\"b"), Some("é"), Some("a\\"), Some(&*long)]
        {
            assert_eq!(sane_request_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_answer_is_finished_and_what_a_handler_set_stays() {
        let answer = finished(Response::problem(404, "nothing"), "id-1");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&body["request_id"], &body["status"]), (&"id-1".into(), &404.into()));
        assert_eq!(header(&answer, "X-Request-Id"), Some("id-1"));
        assert_eq!(header(&answer, "content-security-policy"), Some(POLICY));
        let mut page =
            Response::json(200, b"<p>".to_vec()).with_header("cache-control", "no-cache");
        page.headers[0].1 = "text/html; charset=utf-8".into();
        let page = finished(page, "id-2");
        assert_eq!(page.body, b"<p>");
        assert_eq!(header(&page, "content-security-policy"), Some(PAGE_POLICY));
        assert_eq!(header(&page, "cache-control"), Some("no-cache"));
    }
}
