// The Node SDK's AssistantStream: what it saw, as JSON. OPENAI_BASE_URL and OPENAI_API_KEY are in the environment.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(pathToFileURL(process.argv[2] + '/'));
const { default: OpenAI } = await import(pathToFileURL(require.resolve('openai')).href);
const client = new OpenAI();
const tool = { type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: {} } } };
const assistant = await client.beta.assistants.create({ model: process.argv[3], tools: [{ type: 'code_interpreter' }, tool] });
const thread = await client.beta.threads.create({ messages: [{ role: 'user', content: 'Compute, then ask the weather.' }] });

const seen = { events: [], logs: '', input: '', text: '', calls: [] };
const watch = (stream) =>
  stream
    .on('event', ({ event }) => seen.events.push(event))
    .on('textDelta', (delta) => { seen.text += delta.value ?? ''; })
    .on('toolCallDelta', (delta) => {
      seen.input += delta.code_interpreter?.input ?? '';
      for (const output of delta.code_interpreter?.outputs ?? []) seen.logs += output.logs ?? '';
    })
    .on('toolCallDone', (call) => seen.calls.push(call));

const first = watch(client.beta.threads.runs.stream(thread.id, { assistant_id: assistant.id }));
const waiting = await first.finalRun();
const call = waiting.required_action.submit_tool_outputs.tool_calls[0];
const second = watch(
  client.beta.threads.runs.submitToolOutputsStream(waiting.id, {
    thread_id: thread.id,
    tool_outputs: [{ tool_call_id: call.id, output: 'sunny' }],
  }),
);
const run = await second.finalRun();
const messages = await second.finalMessages();
console.log(JSON.stringify({ ...seen, asked: call.function, status: run.status, final: messages.at(-1).content[0].text.value }));
