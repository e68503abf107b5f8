//! A look at the state directory beside whoever writes it: nothing is changed, no lock is taken.

use std::fs;
use std::path::Path;

use super::{
    DATABASE_FILE, Evidence, Found, IdentityWindow, ModelVersion, Place, SCHEMA_VERSION, Store,
    StoreOptions, dead_letters_of, decisions_of, early_outcomes_of, from_sql, is_corruption,
    log_of, open_read_only, query, reaction, versions,
};
use crate::error::{Error, Result};

/// How much room the database takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The database, bytes.
    pub database: u64,
    /// Its write-ahead log, bytes.
    pub log: u64,
}

impl Store {
    /// Opens the state directory to read from it, also beside a running service. Nothing can be
    /// written through it, and it knows no identities.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a database, [`Error::Corrupt`] when a start would refuse it,
    /// [`Error::Conflict`] when a start would bring it up to date first.
    pub fn open_read_only(directory: &Path, options: StoreOptions) -> Result<Self> {
        let database = directory.join(DATABASE_FILE);
        let nothing = || Error::NotFound(format!("there is no database {}", database.display()));
        let evidence = Evidence::of(directory, &options)?;
        if !evidence.has_database() {
            return Err(nothing());
        }
        let connection = open_read_only(&database)?;
        match evidence.examine(&connection, &options)? {
            Found::Nothing => return Err(nothing()),
            Found::Schema(SCHEMA_VERSION) => {}
            Found::Schema(schema) => {
                return Err(Error::Conflict(format!(
                    "the database {} has schema {schema}, this program reads {SCHEMA_VERSION}: the \
                     next start of the service brings it up to date",
                    database.display()
                )));
            }
        }
        Ok(Self {
            identities: IdentityWindow::load(&connection, 0)?,
            attempts: crate::outcome::fair_shares::Held::default(),
            has_spans: false,
            waiting: super::feedback::Waiting::none(),
            unjudged: 0,
            by_decision: None,
            decisions: decisions_of(&options),
            early_outcomes: early_outcomes_of(&options),
            dead_letters: dead_letters_of(&options),
            place: Place::of(&database),
            connection,
            directory: directory.to_owned(),
            options,
            patience: super::Patience::default(),
            _lock: None,
        })
    }

    /// The same, with every answer from now on as of this moment, whatever is written meanwhile.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn as_of_now(self) -> Result<Self> {
        // It ends with the connection, and has changed nothing.
        self.connection.execute_batch("BEGIN").map_err(|error| reaction(&error))?;
        self.counters()?;
        Ok(self)
    }

    /// Every version of a model type that is known, archived ones too, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn all_versions(&self, model_type: &str) -> Result<Vec<ModelVersion>> {
        let mut versions = versions::list(&self.connection, model_type, None, u32::MAX)?;
        versions.reverse();
        Ok(versions)
    }

    /// What SQLite's `quick_check` finds wrong with the database; `None` when it is sound.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can't be read now.
    pub fn quick_check(&self) -> Result<Option<String>> {
        let checked = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match checked {
            Ok(finding) => Ok(Some(finding).filter(|finding: &String| finding != "ok")),
            Err(error) if is_corruption(&error) => Ok(Some(error.to_string())),
            Err(error) => Err(reaction(&error)),
        }
    }

    /// How many dead letters there are by reason code, most first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letter_codes(&self) -> Result<Vec<(String, u64)>> {
        query(
            &self.connection,
            "SELECT code, count(*) FROM dead_letters GROUP BY code ORDER BY count(*) DESC, code",
            [],
            |row| Ok((row.get(0)?, from_sql(row.get(1)?))),
        )
    }

    /// How much room the database takes.
    pub fn sizes(&self) -> Sizes {
        let database = self.directory.join(DATABASE_FILE);
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        Sizes { database: size(&database), log: size(&log_of(&database)) }
    }
}
