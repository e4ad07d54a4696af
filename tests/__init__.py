# SPDX-License-Identifier: Apache-2.0
"""The test suite; a regular package, so that no other `tests` on the path hides it."""
