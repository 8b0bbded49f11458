"""Which way the network policies let traffic go, worked out from the rendered objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any


@dataclass(frozen=True)
class Pod:
    """One end of a connection."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "tokenbuncher"
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """The other end, outside of the cluster."""

    ip: str


def allowed(policies: Iterable[Mapping[str, Any]], source: Pod, target: Pod | Address, port: int) -> bool:
    """Whether a TCP connection is let out at its source and in at its target."""
    policies = list(policies)
    out = _passes(policies, "Egress", source, target, port)
    return out and (isinstance(target, Address) or _passes(policies, "Ingress", target, source, port))


def _passes(policies: list[Mapping[str, Any]], way: str, here: Pod, there: Pod | Address, port: int) -> bool:
    rules, peers = ("egress", "to") if way == "Egress" else ("ingress", "from")
    about = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == here.namespace
        and way in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], here.labels)
    ]
    if not about:
        return True  # a pod that no policy selects is free
    return any(
        _port_fits(rule, port) and any(_peer_fits(peer, here, there) for peer in rule[peers])
        for policy in about
        for rule in policy["spec"].get(rules, [])
    )


def _port_fits(rule: Mapping[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    return ports is None or any(entry["port"] == port and entry["protocol"] == "TCP" for entry in ports)


def _peer_fits(peer: Mapping[str, Any], here: Pod, there: Pod | Address) -> bool:
    if isinstance(there, Address):
        block = peer.get("ipBlock")
        return block is not None and _in_block(block, there.ip)
    if "ipBlock" in peer:
        return False
    labels = {"kubernetes.io/metadata.name": there.namespace, **there.namespace_labels}
    if "namespaceSelector" in peer:
        in_namespace = _selects(peer["namespaceSelector"], labels)
    else:
        in_namespace = there.namespace == here.namespace
    return in_namespace and _selects(peer.get("podSelector", {}), there.labels)


def _in_block(block: Mapping[str, Any], ip: str) -> bool:
    inside = ip_address(ip) in ip_network(block["cidr"])
    return inside and not any(ip_address(ip) in ip_network(excluded) for excluded in block.get("except", []))


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "Exists":
            return value is not None
        case "In":
            return value in expression["values"]
        case operator:
            raise ValueError(f"operator {operator} is not known here")
