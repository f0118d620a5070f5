# SPDX-License-Identifier: Apache-2.0
"""What a run needs and costs, from the compiler, before a chip-hour is paid."""
