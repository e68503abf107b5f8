//! What tokens cost, for spans that count tokens and name no price.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Largest file of prices, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The price of each model's tokens, in the user's currency.
#[derive(Debug, Default)]
pub struct Prices(BTreeMap<String, Price>);

/// Per token. What a file says beside these is left out.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Price {
    input_cost_per_token: Option<f64>,
    output_cost_per_token: Option<f64>,
}

impl Prices {
    /// Reads a file in the format of LiteLLM's `model_prices_and_context_window.json`: an object whose keys
    /// are models, whose values are objects with `input_cost_per_token` and `output_cost_per_token`.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such file, or it has no price at all.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |what: String| {
            let shown = path.display();
            Error::Config(format!(
                "OTLP_PRICES (--otlp-prices) is {shown:?}, {what}; allowed is a JSON file as \
                 {{\"MODEL\": {{\"input_cost_per_token\": 2.5e-6, \"output_cost_per_token\": 1e-5}}}}"
            ))
        };
        let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(wrong(format!("which has {bytes} bytes, more than {FILE_BYTES_MAX}")));
        }
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let models: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("which is not JSON: {error}")))?;
        let mut prices = BTreeMap::new();
        for (model, value) in models {
            let Ok(price) = serde_json::from_value::<Price>(value) else { continue };
            let amounts = [price.input_cost_per_token, price.output_cost_per_token];
            if amounts.iter().flatten().any(|amount| !(0.0..=1e6).contains(amount)) {
                return Err(wrong(format!(
                    "where the prices of {model:?} are not from 0 to 1000000"
                )));
            }
            if amounts.iter().any(Option::is_some) {
                prices.insert(model, price);
            }
        }
        if prices.is_empty() {
            return Err(wrong("which has no price".to_owned()));
        }
        Ok(Self(prices))
    }

    /// What so many tokens (of the question, of the answer) cost with this model, where both price and
    /// number are known.
    pub(super) fn cost(&self, model: &str, tokens: [Option<f64>; 2]) -> Option<f64> {
        let price = self.0.get(model)?;
        let prices = [price.input_cost_per_token, price.output_cost_per_token];
        let counted = tokens.iter().zip(prices).filter(|(count, _)| count.is_some());
        let parts: Option<Vec<f64>> =
            counted.map(|(count, price)| Some(count.unwrap_or_default() * price?)).collect();
        parts.filter(|parts| !parts.is_empty()).map(|parts| parts.iter().sum())
    }
}
