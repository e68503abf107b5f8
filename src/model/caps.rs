//! How much is used of what is bounded.

use super::families::COVARIANCE_ENTRY_BYTES;
use super::performance::AgentPerformanceModel;

/// How much is used of a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used<'a> {
    /// The cap, as the status calls it.
    pub cap: &'static str,
    /// The tenant that it is of; `None` for what is bounded over all of them.
    pub tenant: Option<&'a str>,
    /// The context key that it is of, where it is of one.
    pub key: Option<&'a str>,
    /// So much.
    pub used: usize,
    /// At most, > 0.
    pub max: usize,
}

impl Used<'_> {
    /// The share in use.
    #[expect(clippy::cast_precision_loss, reason = "shares need no more digits")]
    pub fn share(&self) -> f64 {
        self.used as f64 / self.max as f64
    }
}

impl AgentPerformanceModel {
    /// Every cap past which names or values are not learned, or only as "other". One that is 0 was turned
    /// off.
    pub fn used(&self) -> impl Iterator<Item = Used<'_>> {
        let caps = self.settings.caps;
        let max = self.holding_max();
        let whole = |cap, used, max| Used { cap, tenant: None, key: None, used, max };
        // What is left of the covariances is no row, from when on none is given.
        let covariances_max = max.covariances * COVARIANCE_ENTRY_BYTES;
        let row = (caps.joint_values_per_agent + 1) * COVARIANCE_ENTRY_BYTES;
        let covariances = match self.covariance_bytes() {
            used if used + row > covariances_max => covariances_max,
            used => used,
        };
        let of_all = [
            whole("tenants", self.tenants.len(), self.tenants_max()),
            whole("cells", self.cells(), max.cells),
            whole("effects", self.effects(), max.effects),
            whole("covariances_mib", covariances >> 20, covariances_max >> 20),
            whole("values_mib", self.value_bytes() >> 20, max.value_bytes >> 20),
        ];
        let of_tenants = self.tenants().flat_map(move |(tenant, of)| {
            let caps = self.caps_of(tenant);
            let own = |cap, used, max| Used { cap, tenant: Some(tenant), key: None, used, max };
            let (keys_max, values_max) =
                (caps.context_keys_per_tenant, caps.context_values_per_key);
            let values = of.context_keys().map(move |(key, seen)| {
                let values = own("context_values_per_key", seen.distinct(), values_max);
                Used { key: Some(key), ..values }
            });
            let names = [
                own("agents_per_tenant", of.agents().len(), caps.agents_per_tenant),
                own("task_types_per_tenant", of.task_types().len(), caps.task_types_per_tenant),
                own("context_keys_per_tenant", of.context_keys().len(), keys_max),
            ];
            names.into_iter().chain(values)
        });
        of_all.into_iter().chain(of_tenants).filter(|used| used.max > 0)
    }
}
