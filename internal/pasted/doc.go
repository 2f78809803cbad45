// SPDX-License-Identifier: MPL-2.0

// Package pasted reads values as people have them: from a file that an editor on Windows has
// written, from an environment variable, a secret manager, a web page or a manual. It takes away
// what cannot belong to the value, such as a byte order mark, and says where JSON has a fault.
//
// Only what is unambiguous is taken away. The package depends on nothing else in this module, and
// none of its errors holds a part of the value.
package pasted
