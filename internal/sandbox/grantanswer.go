// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net"
	"net/url"
	"strconv"
	"time"
)

// The parts of the authorization server's answers. What is of type any differs between dialects.
type (
	tokenAnswer struct {
		Access    []json.RawMessage `json:"access"`
		Value     string            `json:"value"`
		Manage    any               `json:"manage,omitempty"`
		ExpiresIn any               `json:"expires_in,omitempty"`
	}
	// manageAnswer is the "manage" of RFC 9635 section 3.2.1.
	manageAnswer struct {
		URI         string      `json:"uri"`
		AccessToken valueAnswer `json:"access_token"`
	}
	valueAnswer struct {
		Value string `json:"value"`
	}
	continueAnswer struct {
		AccessToken valueAnswer `json:"access_token"`
		URI         string      `json:"uri"`
		Wait        int64       `json:"wait,omitempty"`
	}
	interactAnswer struct {
		Redirect string `json:"redirect"`
		Finish   string `json:"finish"`
	}
	grantAnswer struct {
		AccessToken any             `json:"access_token,omitempty"`
		Interact    *interactAnswer `json:"interact,omitempty"`
		Continue    *continueAnswer `json:"continue,omitempty"`
	}
)

// describeToken returns the access_token member of an answer.
func (s *Server) describeToken(t *token) any {
	d := s.dialect.get()
	told := tokenAnswer{Access: t.grant.access, Value: t.value}
	manage := s.at(d.Manage == ManageForeign) + authPath + "/token/" + t.manageID
	switch d.Manage {
	case ManageMissing:
	case ManageObject:
		told.Manage = manageAnswer{manage, valueAnswer{newSecret()}} // the sandbox does not check it
	default:
		told.Manage = manage
	}
	seconds := int64(s.tokenLifetime / time.Second)
	switch d.ExpiresIn {
	case ExpiresMissing:
	case ExpiresString:
		told.ExpiresIn = strconv.FormatInt(seconds, 10)
	default:
		told.ExpiresIn = seconds
	}
	if d.TokenList {
		return []tokenAnswer{told}
	}
	return told
}

// describeContinue returns the continue member of an answer; wait is left out if zero.
func (s *Server) describeContinue(g *grant, wait time.Duration) *continueAnswer {
	d := s.dialect.get()
	if d.Continue == ContinueMissing {
		return nil
	}
	path := continuePath
	if d.Continue == ContinueOtherPath {
		path = otherPath
	}
	id, value := s.store.continuation(g)
	return &continueAnswer{
		AccessToken: valueAnswer{value},
		URI:         s.at(d.Continue == ContinueForeign) + path + id,
		Wait:        int64(wait / time.Second),
	}
}

// at returns the sandbox's origin or, if foreign, another origin that also leads to the sandbox.
func (s *Server) at(foreign bool) string {
	u, err := url.Parse(s.origin)
	if !foreign || err != nil {
		return s.origin
	}
	name := "localhost"
	if u.Hostname() == name {
		name = "127.0.0.1"
	}
	u.Host = net.JoinHostPort(name, u.Port())
	return u.String()
}
