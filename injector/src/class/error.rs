//! Why a class is refused.

use std::fmt;

use coffer::file::FileNameError;
use coffer::render::SelectorError;

use crate::yaml::Fault;

/// An object of a class, as a message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its place in the list, from 1.
    pub number: usize,
    /// Its `objectName`, shortened; empty where it has none.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "object {}", self.number),
            name => write!(f, "object {} (`{name}`)", self.number),
        }
    }
}

/// Why a class is refused. Up to the first `; ` the text is the provider's own, wherever it refuses the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// Both regions are one.
    #[error(
        "{region}: failover region cannot be the same as the primary region; name another `failoverRegion`, or leave it out"
    )]
    SameRegion {
        /// The region.
        region: String,
    },
    /// `usePodIdentity` is no truth value.
    #[error(
        "failed to parse usePodIdentity value, error: strconv.ParseBool: parsing \"{value}\": invalid syntax; write \
         `usePodIdentity: \"true\"` or `usePodIdentity: \"false\"`"
    )]
    PodIdentity {
        /// What it is.
        value: String,
    },
    /// A region is no region's name.
    #[error("`{key}: {name}` is no AWS region; write one such as `eu-west-1`")]
    Region {
        /// The parameter.
        key: &'static str,
        /// What it is.
        name: String,
    },
    /// `pathTranslation` is more than a character.
    #[error(
        "pathTranslation must be either 'False' or a single character string; `{value}` has {bytes} bytes: write what shall \
         stand for each `/` in a file name, such as `_`"
    )]
    Translation {
        /// What it is.
        value: String,
        /// Its length: a character beyond ASCII has more than one.
        bytes: usize,
    },
    /// `objects` is over the bound.
    #[error(
        "Failed to load SecretProviderClass: `objects` has {bytes} bytes; at most {most} are read: make several classes of it"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// `objects` is no YAML, or of another shape.
    #[error("Failed to load SecretProviderClass: {0} (in `objects`)")]
    Yaml(Fault),
    /// There are no objects. The provider answers with nothing, which the driver refuses in these words.
    #[error(
        "missing object versions; `objects` names no secret and no parameter: write a list, each entry with `objectName`"
    )]
    Nothing,
    /// An entry of the list is empty.
    #[error("Empty descriptor entry in SecretProviderClass; object {number} has nothing after its `-`: remove it")]
    EmptyEntry {
        /// Its place in the list, from 1.
        number: usize,
    },
    /// An object has no name.
    #[error(
        "Object name must be specified; {object} has no `objectName`: write the secret's or parameter's name or ARN"
    )]
    NoName {
        /// The object.
        object: Object,
    },
    /// A name starts like an ARN and is none.
    #[error(
        "Invalid ARN format in object name: {name}; {object}: an ARN is \
         `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`"
    )]
    Arn {
        /// The name.
        name: String,
        /// The object.
        object: Object,
    },
    /// An ARN is of another region than the one that is asked.
    #[error(
        "ARN region must match region {region}: {name}; {object}: set `{key}` to the region of the ARN, or name what is in \
         {region}"
    )]
    ArnRegion {
        /// The region that is asked.
        region: String,
        /// The ARN.
        name: String,
        /// The object.
        object: Object,
        /// The parameter that names the region.
        key: &'static str,
    },
    /// A bare name does not say where to look.
    #[error(
        "Must use objectType when a full ARN is not specified: {name}; {object}: add `objectType: secretsmanager` or \
         `objectType: ssmparameter`"
    )]
    NoType {
        /// The name.
        name: String,
        /// The object.
        object: Object,
    },
    /// An ARN is of something else.
    #[error("Invalid service in ARN: {service}; {object}: `{name}` is the ARN of no secret and no parameter")]
    Service {
        /// The service.
        service: String,
        /// The ARN.
        name: String,
        /// The object.
        object: Object,
    },
    /// `objectType` is none that there is.
    #[error("Invalid objectType: {kind}; {object}: write `{fix}`")]
    Type {
        /// What it is.
        kind: String,
        /// The object.
        object: Object,
        /// What was probably meant.
        fix: &'static str,
    },
    /// `objectType` and the ARN say different things.
    #[error("objectType does not match ARN: {name}; {object}: remove `objectType`, the ARN says it")]
    TypeMismatch {
        /// The ARN.
        name: String,
        /// The object.
        object: Object,
    },
    /// A parameter is to have two versions.
    #[error(
        "ssm parameters can not specify both objectVersion and objectVersionLabel: {name}; {object}: keep one of them{}",
        if *failover { " in `failoverObject`" } else { "" }
    )]
    TwoVersions {
        /// The parameter.
        name: String,
        /// The object.
        object: Object,
        /// Whether it is the one of the other region.
        failover: bool,
    },
    /// A name climbs out of the volume.
    #[error("path can not contain ../: {name}; {object}: the file would be `{file}`: give it another `objectAlias`")]
    Climbs {
        /// The object's name.
        name: String,
        /// The object.
        object: Object,
        /// The file's name.
        file: String,
    },
    /// `filePermission` is not of four octal digits.
    #[error(
        "Invalid File Permission: {read}; {object}: {}",
        written.as_ref().map_or_else(
            || "write four octal digits in quotes, such as \"0440\"".to_owned(),
            |written| format!("YAML reads {written} without quotes as the number {read}: write \"{written}\""),
        )
    )]
    Permission {
        /// The text as it is read.
        read: String,
        /// The text as it stands there, where it is another.
        written: Option<String>,
        /// The object.
        object: Object,
    },
    /// An entry of `jmesPath` has no path.
    #[error("Path must be specified for JMES object; {object}: entry {entry} of its `jmesPath` has no `path`")]
    NoPath {
        /// The object.
        object: Object,
        /// Its place in the list, from 1.
        entry: usize,
    },
    /// An entry of `jmesPath` has no file name.
    #[error(
        "Object alias must be specified for JMES object; {object}: entry {entry} of its `jmesPath` has no `objectAlias`, which \
         is the file's name"
    )]
    NoAlias {
        /// The object.
        object: Object,
        /// Its place in the list, from 1.
        entry: usize,
    },
    /// A failover object needs a file name.
    #[error(
        "object alias must be specified for objects with failover entries: {name}; {object}: add `objectAlias`, the name of \
         the file in either case"
    )]
    FailoverAlias {
        /// The object's name.
        name: String,
        /// The object.
        object: Object,
    },
    /// A failover object without a second region.
    #[error(
        "failover object allowed only when failover region is defined: {name}; {object}: add the parameter `failoverRegion`, \
         or remove `failoverObject`"
    )]
    FailoverRegion {
        /// The object's name.
        name: String,
        /// The object.
        object: Object,
    },
    /// The versions of both regions differ.
    #[error(
        "object versions must match between primary and failover regions: {name}; {object}: write the same `objectVersion` in \
         `failoverObject`, or none in both"
    )]
    FailoverVersion {
        /// The object's name.
        name: String,
        /// The object.
        object: Object,
    },
    /// An object stands there twice.
    #[error(
        "found descriptor with duplicate object name {}, {}, and {}; {object} and {other} would be one file: give each an \
         `objectAlias` of its own",
        object.name,
        alias.as_ref().map_or_else(|| "no object alias".to_owned(), |alias| format!("duplicate object alias {alias}")),
        label.as_ref().map_or_else(|| "no version label".to_owned(), |label| format!("duplicate version label {label}"))
    )]
    Twice {
        /// The alias of both.
        alias: Option<String>,
        /// The label of both.
        label: Option<String>,
        /// The later one.
        object: Object,
        /// The earlier one.
        other: Object,
    },
    /// Two objects have one alias.
    #[error("found duplicate object alias {alias}; {object} and {other} would be one file: rename one")]
    SameAlias {
        /// The alias.
        alias: String,
        /// The later one.
        object: Object,
        /// The earlier one.
        other: Object,
    },
    /// An entry of `jmesPath` has an alias that is taken.
    #[error(
        "Name already in use for objectAlias: found duplicate object alias {alias} in JMES path entry {path}; {object} and \
         {other} would have one file: rename one"
    )]
    SamePathAlias {
        /// The alias.
        alias: String,
        /// The entry's path.
        path: String,
        /// Whose entry it is.
        object: Object,
        /// Who has the alias.
        other: Object,
    },
    /// A path is no JMESPath. The provider finds out when it has the value.
    #[error("Invalid JMES Path: {path}.; {object}: {cause}")]
    JmesPath {
        /// The path.
        path: String,
        /// The object.
        object: Object,
        /// What is wrong with it.
        cause: Box<SelectorError>,
    },
    /// A file cannot have this name.
    #[error("{object}: the file cannot be called `{file}`: {cause}; give it another `objectAlias`")]
    FileName {
        /// The object.
        object: Object,
        /// The name.
        file: String,
        /// What is wrong with it.
        cause: FileNameError,
    },
    /// Two objects that the provider takes would be one file, and one of them would be lost.
    #[error(
        "{object} and {other} would both be the file `{file}`, and one would be lost: give one another `objectAlias`"
    )]
    OneFile {
        /// The later one.
        object: Object,
        /// The earlier one.
        other: Object,
        /// The file.
        file: String,
    },
    /// The file of one object is a folder of another's.
    #[error(
        "{object} is the file `{file}` and {other} the file `{taken}`, where one is a folder of the other: rename one by \
         `objectAlias`"
    )]
    Folder {
        /// The later one.
        object: Object,
        /// Its file.
        file: String,
        /// The earlier one.
        other: Object,
        /// Its file.
        taken: String,
    },
    /// What an object names cannot be at AWS.
    #[error("{object}: {why}")]
    Reference {
        /// The object.
        object: Object,
        /// What is wrong with it, and the fix.
        why: String,
    },
}
