//! A request's situation as a Cedar context, in two ways from one description: built of Cedar's values,
//! which is what decisions use, and by way of Cedar's public constructors, which evaluate expressions
//! for it and take five times as long.

use cedar_policy::{Context, EntityUid, RestrictedExpression};
use cedar_policy_core::ast::{Context as CoreContext, Literal, Value, ValueKind};
use muster_model::Timestamp;

use crate::facts::{Millis, Situation, Words};

const DAY: i64 = 24 * 60 * 60 * 1000;
/// 9999-12-31T23:59:59.999Z: Cedar writes years with four digits, and "never" comes after them all.
const LAST: i64 = 253_402_300_799_999;
/// 0000-01-01T00:00:00.000Z.
const FIRST: i64 = -62_167_219_200_000;

pub(crate) fn word(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

pub(crate) fn long(value: impl Into<i64>) -> RestrictedExpression {
    RestrictedExpression::new_long(value.into())
}

/// A count that fits Cedar's 64 bits with a sign; a larger one is as good as the largest.
pub(crate) fn number(value: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

pub(crate) fn flag(value: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(value)
}

pub(crate) fn words(values: &Words) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| word(value)))
}

pub(crate) fn date(millis: Millis) -> RestrictedExpression {
    RestrictedExpression::new_datetime(civil(millis))
}

/// The nearest instant that Cedar can write.
pub(crate) fn within_years(millis: Millis) -> Millis {
    millis.clamp(FIRST, LAST)
}

/// An instant in the one form of RFC 3339 that Cedar reads, with milliseconds and in UTC; what is
/// outside the years 0 to 9999 becomes their first or last instant.
pub(crate) fn civil(millis: Millis) -> String {
    let millis = within_years(millis);
    let (days, rest) = (millis.div_euclid(DAY), millis.rem_euclid(DAY));
    // The days of the proleptic Gregorian calendar, counted in eras of 400 years that begin on the
    // first of March of year 0, so that the leap day is the last of its year.
    let from_march = days + 719_468;
    let (era, day) = (
        from_march.div_euclid(146_097),
        from_march.rem_euclid(146_097),
    );
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// An instant as policies compare with it. Making one takes as long as a third of a decision, so who
/// decides often keeps it for as long as it is true.
#[derive(Clone, Debug)]
pub struct Moment {
    at: Timestamp,
    value: Value,
}

impl Moment {
    /// The instant itself; outside the years 0 to 9999, the nearest inside.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "every instant is written in the form that Cedar reads; the test of `civil` has the ends"
    )]
    pub fn at(at: Timestamp) -> Self {
        let context = Context::from_pairs([("now".to_owned(), date(at.unix_millis()))]);
        let value = match context.as_ref().map(AsRef::<CoreContext>::as_ref) {
            Ok(CoreContext::Value(fields)) => fields.get("now").cloned(),
            Ok(CoreContext::RestrictedResidual(_)) | Err(_) => None,
        };
        Self {
            at,
            value: value.expect("an instant in Cedar's form is a value"),
        }
    }

    /// The instant.
    pub fn timestamp(&self) -> Timestamp {
        self.at
    }
}

/// A value on its way to Cedar.
enum Plain<'a> {
    Text(&'a str),
    Long(i64),
    Words(&'a Words),
    Entity(EntityUid),
    Now(&'a Moment),
    Record(Fields<'a>),
}

type Fields<'a> = Vec<(&'static str, Plain<'a>)>;

/// A count that fits Cedar's 64 bits with a sign; a larger one is as good as the largest.
fn count<'a>(value: u64) -> Plain<'a> {
    Plain::Long(i64::try_from(value).unwrap_or(i64::MAX))
}

/// The fields of the context, as the schema has them.
fn fields<'a>(situation: &'a Situation, subject: Option<EntityUid>, now: &'a Moment) -> Fields<'a> {
    let mut fields: Fields<'a> = Vec::with_capacity(8);
    if let Some(task) = &situation.task {
        let task = vec![
            ("id", Plain::Text(&task.id)),
            ("kind", Plain::Text(&task.kind)),
            ("risk", Plain::Long(task.risk.into())),
            ("dataClass", Plain::Long(task.data_class.into())),
            ("secondsLeft", count(task.seconds_left)),
            ("budget", count(task.budget)),
            ("spent", count(task.spent)),
            ("depth", Plain::Long(task.depth.into())),
        ];
        fields.push(("task", Plain::Record(task)));
    }
    if let Some(parent) = &situation.parent {
        let parent = vec![
            ("id", Plain::Text(&parent.id)),
            ("kind", Plain::Text(&parent.kind)),
            ("scopes", Plain::Words(&parent.scopes)),
            ("dataClass", Plain::Long(parent.data_class.into())),
            ("secondsLeft", count(parent.seconds_left)),
            ("budgetLeft", count(parent.budget_left)),
        ];
        fields.push(("parent", Plain::Record(parent)));
    }
    let delegation = &situation.delegation;
    let mut by_whom = vec![
        ("depth", Plain::Long(delegation.depth.into())),
        ("actors", Plain::Words(&delegation.actors)),
        ("subjectScopes", Plain::Words(&delegation.subject_scopes)),
        ("consent", Plain::Text(delegation.consent.as_str())),
    ];
    by_whom.extend(subject.map(|subject| ("subject", Plain::Entity(subject))));
    let proof = &situation.proof;
    let proof = vec![
        ("binding", Plain::Text(proof.binding.as_str())),
        ("keyCustody", Plain::Text(proof.key_custody.as_str())),
        ("attested", Plain::Words(&proof.attested)),
        ("level", Plain::Long(proof.level.into())),
        ("ageSeconds", count(proof.age_seconds)),
    ];
    let requested = &situation.requested;
    let requested = vec![
        ("scopes", Plain::Words(&requested.scopes)),
        ("dataClass", Plain::Long(requested.data_class.into())),
        ("seconds", count(requested.seconds)),
        ("budget", count(requested.budget)),
    ];
    fields.extend([
        ("delegation", Plain::Record(by_whom)),
        ("proof", Plain::Record(proof)),
        ("scopes", Plain::Words(&situation.scopes)),
        ("requested", Plain::Record(requested)),
        ("approvals", Plain::Words(&situation.approvals)),
        ("now", Plain::Now(now)),
    ]);
    fields
}

/// The context, built of values.
pub(crate) fn context(situation: &Situation, subject: Option<EntityUid>, now: &Moment) -> Context {
    let value = Plain::Record(fields(situation, subject, now)).into_value();
    match value.value {
        ValueKind::Record(fields) => CoreContext::Value(fields).into(),
        // A record was made.
        ValueKind::Lit(_) | ValueKind::Set(_) | ValueKind::ExtensionValue(_) => Context::empty(),
    }
}

/// The same context by way of Cedar's public constructors.
pub(crate) fn context_evaluated(
    situation: &Situation,
    subject: Option<EntityUid>,
    now: &Moment,
) -> Result<Context, String> {
    let pairs = fields(situation, subject, now)
        .into_iter()
        .map(|(name, value)| Ok((name.to_owned(), value.into_expression()?)))
        .collect::<Result<Vec<_>, String>>()?;
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

impl Plain<'_> {
    fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::from(text),
            Self::Long(number) => Value::from(number),
            Self::Words(words) => {
                Value::set_of_lits(words.iter().map(|word| Literal::from(word.as_str())), None)
            }
            Self::Entity(uid) => {
                Value::from(AsRef::<cedar_policy_core::ast::EntityUID>::as_ref(&uid).clone())
            }
            Self::Now(moment) => moment.value.clone(),
            Self::Record(fields) => Value::record(
                fields
                    .into_iter()
                    .map(|(name, value)| (name, value.into_value())),
                None,
            ),
        }
    }

    fn into_expression(self) -> Result<RestrictedExpression, String> {
        Ok(match self {
            Self::Text(text) => word(text),
            Self::Long(number) => long(number),
            Self::Words(values) => words(values),
            Self::Entity(uid) => RestrictedExpression::new_entity_uid(uid),
            Self::Now(moment) => date(moment.at.unix_millis()),
            Self::Record(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| Ok((name.to_owned(), value.into_expression()?)))
                    .collect::<Result<Vec<_>, String>>()?;
                RestrictedExpression::new_record(fields).map_err(|error| error.to_string())?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_cedar_reads_them() {
        let check = |millis, expected: &str| {
            assert_eq!(civil(millis), expected);
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(-1, "1969-12-31T23:59:59.999Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_799_999, "2000-02-29T23:59:59.999Z");
        check(1_795_530_185_042, "2026-11-24T14:23:05.042Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        check(FIRST, "0000-01-01T00:00:00.000Z");
        check(i64::MIN, "0000-01-01T00:00:00.000Z");
        check(i64::MAX, "9999-12-31T23:59:59.999Z");
    }
}
