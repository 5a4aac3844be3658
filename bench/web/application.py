"""What is served while it is measured."""

from taskloom import StepFunctionTaskEvent, TaskModule

module = TaskModule.register(enable_controller=True)


@module.step_function_task("work", chunk_size=50)
async def work(event: StepFunctionTaskEvent) -> int:
    return event.input.input  # type: ignore[no-any-return]
