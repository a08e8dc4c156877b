//! A review, as far as it is of interest here: read in place, and the object only once it is wanted.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What an AdmissionReview has to be.
const API_VERSION: &str = "admission.k8s.io/v1";
/// The longest uid that is sent back; Kubernetes' own have 36 characters.
const LONGEST_UID: usize = 128;
/// The most that a pod's object may be made of: strings, numbers, lists and so on, each of which takes some hundred
/// bytes of memory. A hundred containers with fifty variables each are not half of that.
const MOST_VALUES: usize = 50_000;
/// The longest name that is shown, as Kubernetes has them.
const LONGEST_NAME: usize = 253;

/// Why there is nothing to decide on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is no review, so that there is nobody to answer but the client.
    NoReview(String),
    /// It is one, of something that cannot be.
    Object {
        /// Which.
        uid: String,
        /// Why.
        why: String,
    },
}

/// What the API server asks.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) uid: String,
    operation: Cow<'a, str>,
    resource: Resource<'a>,
    sub_resource: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    object: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request: Option<Asked<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource: Option<Resource<'a>>,
    #[serde(borrow)]
    sub_resource: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct Resource<'a> {
    #[serde(borrow, default)]
    group: Cow<'a, str>,
    #[serde(borrow, default)]
    version: Cow<'a, str>,
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
}

impl<'a> Request<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Bad> {
        // What is passed over is not looked at so closely later on.
        let text = std::str::from_utf8(body).map_err(|_| Bad::NoReview("the body is no UTF-8".to_owned()))?;
        // Where it fails, and not with which words: those may quote what is read.
        let place = |error: &serde_json::Error| format!("line {}, column {}", error.line(), error.column());
        let review: Review<'a> = serde_json::from_str(text).map_err(|error| {
            let at = place(&error);
            Bad::NoReview(match error.classify() {
                serde_json::error::Category::Data => format!("the JSON is no AdmissionReview ({at})"),
                serde_json::error::Category::Eof => format!("the JSON ends too early ({at})"),
                _ => format!("the body is no JSON ({at})"),
            })
        })?;
        let (version, kind) = (review.api_version.unwrap_or_default(), review.kind.unwrap_or_default());
        if kind != "AdmissionReview" || version != API_VERSION {
            let fix = format!(
                "set `admissionReviewVersions: [v1]`; what is answered here is AdmissionReview of {API_VERSION}"
            );
            let (version, kind) = (shown(&version), shown(&kind));
            return Err(Bad::NoReview(format!("this is `{kind}` of `{version}`: {fix}")));
        }
        let Some(asked) = review.request else {
            return Err(Bad::NoReview("the AdmissionReview has no `request`".to_owned()));
        };
        let uid = asked.uid.unwrap_or_default().into_owned();
        if uid.is_empty() || uid.len() > LONGEST_UID {
            let wanted = format!("1 to {LONGEST_UID} bytes");
            return Err(Bad::NoReview(format!("the AdmissionReview's `request.uid` is to have {wanted}")));
        }
        let missing = |name: &str| Bad::Object { uid: uid.clone(), why: format!("the review has no `request.{name}`") };
        let operation = asked.operation.ok_or_else(|| missing("operation"))?;
        let resource = asked.resource.ok_or_else(|| missing("resource"))?;
        let (sub_resource, namespace, object) = (asked.sub_resource, asked.namespace, asked.object);
        Ok(Self { uid, operation, resource, sub_resource, namespace, object })
    }

    /// What this is about, where it is not the creation of a pod.
    pub(super) fn misdirected(&self) -> Option<String> {
        let Resource { group, version, resource } = &self.resource;
        let sub = self.sub_resource.as_deref().unwrap_or_default();
        let pod = group.is_empty() && version == "v1" && resource == "pods" && sub.is_empty();
        if pod && self.operation == "CREATE" {
            return None;
        }
        let parts = [group, version, resource, sub].map(shown);
        let path = parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/");
        Some(format!("nothing is done on {} of {path}", shown(&self.operation)))
    }

    /// The pod, whole.
    ///
    /// # Errors
    /// Why this is none, or none that is read here.
    pub(super) fn pod(&self) -> Result<Value, String> {
        let text = self.object.map_or("null", RawValue::get);
        let values = values_in(text);
        if values > MOST_VALUES {
            return Err(format!("the pod has {values} values; the webhook reads at most {MOST_VALUES}"));
        }
        // It was read once, but for its depth, and for numbers and letters that cannot be.
        let pod: Value = serde_json::from_str(text).map_err(|error| format!("the pod cannot be read: {error}"))?;
        let Some(object) = pod.as_object() else {
            return Err("`request.object` is no object; a pod was to be created".to_owned());
        };
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or("Pod");
        if kind != "Pod" {
            return Err(format!("`request.object` is `{}`, not a Pod", shown(kind)));
        }
        Ok(pod)
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The pod's name for the log; one that is made of a ReplicaSet has none of its own yet.
    pub(super) fn shown_name(&self, pod: &Value) -> String {
        let metadata = &pod["metadata"];
        let own = metadata["name"].as_str().filter(|name| !name.is_empty());
        let name = own.or_else(|| metadata["generateName"].as_str()).unwrap_or_default();
        format!("{}/{}", shown(self.namespace()), shown(name))
    }
}

/// How many values a JSON text holds, at most: the memory that it takes is known before it is taken.
fn values_in(text: &str) -> usize {
    let mut count = 1;
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// A text of the client's, fit to be shown.
fn shown(text: impl AsRef<str>) -> String {
    text.as_ref().chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, most) in [
            ("null", 1),
            ("[]", 2),
            (r#"{"a": [1, 2, 3]}"#, 5),
            (r#""a, [b], {c: \", \\""#, 1),
            (r#"{"a\\": "x,y", "b": "\\\","}"#, 3),
        ] {
            assert_eq!(values_in(text), most, "{text}");
        }
    }
}
