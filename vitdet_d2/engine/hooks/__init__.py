# SPDX-License-Identifier: Apache-2.0
"""What happens between training steps; one hook per file."""
