// @langchain/openai, through chats.
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool as made } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";

import {
  base, description, drive, greeting, key, model, parameters, person, refusal, snow, story, tool,
  weather,
} from "./drive.mjs";

const opened = (more) =>
  new ChatOpenAI({
    model, apiKey: key, maxRetries: 0, configuration: { baseURL: `${base}/v1` }, ...more,
  });
const chat = opened();
const forecast = made(() => snow, { name: tool, description: "Of a city", schema: parameters });

const twoSteps = async (ask) => {
  const messages = [new HumanMessage(weather)];
  const first = await ask(messages);
  const [{ id, name, args }] = first.tool_calls;
  messages.push(first, new ToolMessage({ content: await forecast.invoke(args), tool_call_id: id }));
  const second = await ask(messages);
  return { text: second.content, call: { name, arguments: args } };
};

await drive({
  async text() {
    const answer = await chat.invoke(greeting);
    return { text: answer.content, usage: answer.usage_metadata.total_tokens };
  },

  async stream() {
    let whole, parts = 0;
    for await (const chunk of await chat.stream(greeting)) {
      if (chunk.content) parts++;
      whole = whole ? whole.concat(chunk) : chunk;
    }
    return { text: whole.content, parts, usage: whole.usage_metadata?.total_tokens };
  },

  tools: () => twoSteps((messages) => chat.bindTools([forecast]).invoke(messages)),

  streamedTools: () =>
    twoSteps(async (messages) => {
      let whole;
      for await (const chunk of await chat.bindTools([forecast]).stream(messages)) {
        whole = whole ? whole.concat(chunk) : chunk;
      }
      return whole;
    }),

  async structured() {
    const asked = chat.withStructuredOutput(person, { name: "person", method: "jsonSchema" });
    return { value: await asked.invoke(description) };
  },

  async errors() {
    return {
      wrong: await refusal(() => opened({ temperature: -3 }).invoke("Hi")),
      unknown: await refusal(() => opened({ model: "nobody" }).invoke("Hi")),
      stranger: await refusal(() => opened({ apiKey: "wrong" }).invoke("Hi")),
    };
  },

  async cancel() {
    const abort = new AbortController();
    try {
      for await (const chunk of await chat.stream(story, { signal: abort.signal })) {
        if (chunk.content) abort.abort();
      }
    } catch (error) {
      return { cancelled: /abort/i.test(String(error)) };
    }
    return { cancelled: abort.signal.aborted };
  },
});
