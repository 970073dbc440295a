//! Kubernetes' own tables for its HorizontalPodAutoscaler, and what the documents say of theirs.
//!
//! Cases are transcribed from `replica_calculator_test.go` and `horizontal_test.go` of
//! `kubernetes/kubernetes/pkg/controller/podautoscaler`, Copyright The Kubernetes Authors, Apache License 2.0: inputs
//! and results as data, names as there. Each of its pods has two containers of one core, so that one reserves 2000m.

mod documents;
mod policies;
mod rates;
mod replicas;
mod rules;
