"""What plugin authors run against their plugins: `check_task` for a task.

from unlearnbench.testing import check_task

def test_my_task_keeps_the_contract():
    check_task(MyTask.configured(split="small"), model)
"""

from unlearnbench.testing.task_contract import check_task

__all__ = ["check_task"]
