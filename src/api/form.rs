//! The body of a request as a form (protocol page, section 3). Pure.

use std::borrow::Cow;

use super::error::ApiError;
use crate::http::Request;

/// A form's pairs; of a name given twice the first counts.
pub(super) struct Form<'a>(pub(super) Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Form<'a> {
    pub(super) fn of(request: &'a Request) -> Result<Self, ApiError> {
        match media_type(request) {
            Media::Form => Ok(Form(form_urlencoded::parse(&request.body).collect())),
            Media::Json | Media::Other => Err(content_type(request)),
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    pub(super) fn present(&self, name: &'static str) -> Result<&str, ApiError> {
        self.value(name)
            .ok_or_else(|| bad(name, format!("is missing; send {name}=VALUE as a form")))
    }

    pub(super) fn required(&self, name: &'static str) -> Result<Box<str>, ApiError> {
        match self.present(name)?.trim() {
            "" => Err(bad(name, "is empty")),
            value => Ok(value.into()),
        }
    }
}

pub(super) enum Media {
    Form,
    Json,
    Other,
}

/// What kind of body a request says it has. A missing type, and any type of no body, is a form.
pub(super) fn media_type(request: &Request) -> Media {
    let essence = match &request.content_type {
        Some(_) if request.body.is_empty() => return Media::Form,
        Some(value) => value.split(';').next().unwrap_or("").trim(),
        None => return Media::Form,
    };
    if essence.is_empty() || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Media::Form
    } else if essence.eq_ignore_ascii_case("application/json") {
        Media::Json
    } else {
        Media::Other
    }
}

pub(super) fn content_type(request: &Request) -> ApiError {
    ApiError::ContentType(request.content_type.clone().unwrap_or_default())
}

pub(super) fn bad(name: &'static str, fault: impl Into<String>) -> ApiError {
    ApiError::Parameter { name, fault: fault.into() }
}
