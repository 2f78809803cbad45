// SPDX-License-Identifier: MPL-2.0

// Package kubernetes checks examples/kubernetes against the types of Kubernetes. It is a module of
// its own, so that they do not touch the main module's go.mod.
package kubernetes

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// decode decodes a document into an object, and refuses fields that the object does not have.
func decode(t *testing.T, document string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
		t.Fatal(err)
	}
}

func TestPod(t *testing.T) {
	text, err := os.ReadFile("../../examples/kubernetes/pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	if len(documents) != 2 {
		t.Fatalf("%d documents", len(documents))
	}
	var agent corev1.ConfigMap
	var pod corev1.Pod
	decode(t, documents[0], &agent)
	decode(t, documents[1], &pod)

	if len(pod.Spec.InitContainers) != 2 || len(pod.Spec.Containers) != 1 {
		t.Fatalf("%d sidecars, %d containers", len(pod.Spec.InitContainers), len(pod.Spec.Containers))
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		confined := c.SecurityContext
		if confined == nil || confined.ReadOnlyRootFilesystem == nil || !*confined.ReadOnlyRootFilesystem ||
			confined.AllowPrivilegeEscalation == nil || *confined.AllowPrivilegeEscalation ||
			confined.Capabilities == nil || len(confined.Capabilities.Drop) != 1 || confined.Capabilities.Drop[0] != "ALL" {
			t.Errorf("%s is not confined", c.Name)
		}
	}
	if s := pod.Spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 {
		t.Error("the pod may run as root")
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			t.Errorf("%s is not a native sidecar", c.Name)
		}
	}
	proxy := pod.Spec.InitContainers[1]
	for name, probe := range map[string]*corev1.Probe{
		"/readyz": proxy.ReadinessProbe, "/healthz": proxy.LivenessProbe, "/readyz at the start": proxy.StartupProbe,
	} {
		path, _, _ := strings.Cut(name, " ")
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != "admin" {
			t.Errorf("no probe of %s", name)
		}
	}
	if grace := pod.Spec.TerminationGracePeriodSeconds; grace == nil || *grace < 100 {
		t.Error("the pod is killed while a payment may be in progress")
	}
}
