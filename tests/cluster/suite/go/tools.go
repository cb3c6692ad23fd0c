//go:build tools

// Package tools names the programs beside the suite itself, so that go.mod pins their versions.
package tools

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
