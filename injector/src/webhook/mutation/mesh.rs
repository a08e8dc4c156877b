//! Containers of service meshes, known by their names: they need no secrets of the application's, and before their
//! proxy runs, the network may be closed.

use super::draft::{Container, Draft};

/// Of Istio and Linkerd; nobody else has such names.
const NAMES: [&str; 7] = [
    "istio-proxy",
    "istio-init",
    "istio-validation",
    "linkerd-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "linkerd-debug",
];
/// Those that carry the traffic of the others.
const PROXIES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];
/// Those by which the CNI plugin of a mesh is known: the traffic is redirected before any container runs.
const VALIDATORS: [&str; 2] = ["istio-validation", "linkerd-network-validator"];
/// App Mesh's: names that others have too, so that they count only together.
const APP_MESH_PROXY: &str = "envoy";
const APP_MESH_INIT: &str = "proxyinit";

/// By which a mesh's containers in a pod are known.
pub(super) struct Known {
    is_app_mesh: bool,
}

impl Known {
    pub(super) fn of(draft: &Draft) -> Self {
        Self { is_app_mesh: is_app_mesh(draft) }
    }

    /// Whether a container is a mesh's.
    pub(super) fn is_of_mesh(&self, container: &Container) -> bool {
        let name = container.name();
        NAMES.contains(&name) || (self.is_app_mesh && (name == APP_MESH_PROXY || name == APP_MESH_INIT))
    }
}

/// How many of the init containers end with the last proxy among them that goes on running, and its name.
pub(super) fn native_proxy(draft: &Draft) -> Option<(usize, &str)> {
    let is_proxy = |container: &Container| container.stays() && PROXIES.contains(&container.name());
    let at = draft.init.iter().rposition(is_proxy)?;
    Some((at + 1, draft.init[at].name()))
}

/// The proxy of the pod that starts after all init containers.
pub(super) fn late_proxy(draft: &Draft) -> Option<&str> {
    let is_app_mesh = is_app_mesh(draft);
    let is_proxy = |name: &str| PROXIES.contains(&name) || (name == APP_MESH_PROXY && is_app_mesh);
    draft.regular.iter().map(Container::name).find(|name| is_proxy(name))
}

/// What is to be said of a proxy that starts only after ours, where the mesh's CNI plugin redirects from the first.
pub(super) fn closed_network(draft: &Draft, proxy: &str) -> Option<String> {
    let validator = draft.init.iter().map(Container::name).find(|name| VALIDATORS.contains(name))?;
    let (native, ports) = match proxy {
        "linkerd-proxy" => {
            ("config.alpha.linkerd.io/proxy-enable-native-sidecar", "config.linkerd.io/skip-outbound-ports")
        }
        _ => ("sidecar.istio.io/nativeSidecar", "traffic.sidecar.istio.io/excludeOutboundPorts"),
    };
    let is_open = draft.annotation(ports).is_some_and(|ports| ports.split(',').any(|port| port.trim() == "443"));
    (!is_open).then(|| {
        format!(
            "give the pod `{native}: \"true\"` or `{ports}: \"443\"`: the mesh's CNI plugin (`{validator}`) redirects the \
             traffic to `{proxy}`, which starts after Coffer"
        )
    })
}

fn is_app_mesh(draft: &Draft) -> bool {
    let is_named = |list: &[Container], name: &str| list.iter().any(|container| container.name() == name);
    let is_told = |container: &Container| {
        container.name() == APP_MESH_PROXY
            && container.env().any(|variable| super::draft::name_of(variable).starts_with("APPMESH_"))
    };
    is_named(&draft.regular, APP_MESH_PROXY)
        && (is_named(&draft.init, APP_MESH_INIT) || draft.regular.iter().any(is_told))
}
